"""Metrics are exposed in both formats of Prometheus."""

from collections.abc import Iterator
from time import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import format_trace_id
from prometheus_client import REGISTRY

import notes
from notes.config import Settings
from plinth.telemetry import metrics
from plinth.telemetry.metrics import Observed, db_operation, exemplar, exposition
from tests.support.metrics import OPENMETRICS, metric, samples


@pytest.fixture
def gauge() -> Iterator[Observed]:
    gauge = Observed("test_gauge", "For these tests.", ("name",), lambda a, b: a + b)
    yield gauge
    REGISTRY.unregister(gauge)


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


class TestObserved:
    def test_observed_gauge_is_read_at_each_scrape(self, gauge: Observed) -> None:
        values = iter([1, 2])
        with gauge.by(lambda: [(("a",), next(values))]):
            assert metric("test_gauge", name="a") == 1
            assert metric("test_gauge", name="a") == 2

    def test_observed_gauge_without_a_source_has_no_samples(self, gauge: Observed) -> None:
        with gauge.by(lambda: [(("a",), 1)]):
            pass
        assert not [sample for sample in samples() if sample.name == "test_gauge"]
        assert "# HELP test_gauge For these tests." in exposition("")[1].decode()

    def test_observed_values_with_equal_labels_are_added(self, gauge: Observed) -> None:
        with gauge.by(lambda: [(("a",), 1), (("b",), 5)]), gauge.by(lambda: [(("a",), 2)]):
            found = [(sample.labels["name"], sample.value) for sample in samples() if sample.name == "test_gauge"]
        assert sorted(found) == [("a", 3), ("b", 5)]

    def test_observed_gauge_takes_the_largest_value_by_default(self) -> None:
        gauge = Observed("test_largest", "For these tests.")
        try:
            with gauge.by(lambda: [((), 2)]), gauge.by(lambda: [((), 3)]), gauge.by(lambda: [((), 1)]):
                assert metric("test_largest") == 3
        finally:
            REGISTRY.unregister(gauge)


class TestExposition:
    def test_exposition_is_openmetrics_where_it_is_accepted(self) -> None:
        content_type, content = exposition(f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5")
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        assert content.endswith(b"# EOF\n")
        assert content.count(b"# EOF\n") == 1

    @pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=0.0.4"])
    def test_exposition_is_plain_text_otherwise(self, accept: str) -> None:
        content_type, content = exposition(accept)
        assert content_type.startswith("text/plain; version=0.0.4")
        assert b"# EOF" not in content

    @pytest.mark.parametrize(
        ("accept", "openmetrics"),
        [
            (f"{OPENMETRICS};q=0,text/plain", False),
            (f"{OPENMETRICS};q=0.3,text/plain;version=0.0.4;q=0.7", False),
            (f"{OPENMETRICS}; q=0.3 , text/plain;q=0.2", True),
            (f"text/plain;q=0.5,{OPENMETRICS};q=0.5", True),
            ("text/plain,application/openmetrics-text", True),
            ("Application/OpenMetrics-Text; Version=1.0.0; Q=0.9, */*;q=0.1", True),
            (f"*/*,{OPENMETRICS};q=0.9", False),
            (f"{OPENMETRICS};q=0", False),
            (f"{OPENMETRICS};q=much,text/plain;q=0.1", False),
            (f"{OPENMETRICS};q=2", False),
            ('application/openmetrics-text;version="1.0.0"', True),
            ("application/openmetrics-text;version=2.0.0", False),
            ("application/openmetrics-text;version=1_0.0", False),
            (f"application/openmetrics-text;version=2.0.0,{OPENMETRICS};q=0.5", True),
            (PROMETHEUS_2, True),
            (PROMETHEUS_3, True),
            ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.6,text/plain;q=0.3", False),
        ],
    )
    def test_the_format_is_the_one_with_the_largest_weight(self, accept: str, openmetrics: bool) -> None:
        content_type, content = exposition(accept)
        assert content_type.startswith("application/openmetrics-text" if openmetrics else "text/plain")
        assert content.endswith(b"# EOF\n") is openmetrics

    def test_both_exposition_formats_have_the_same_series(self) -> None:
        def shown(accept: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
            return {(sample.name, frozenset(sample.labels.items())) for sample in samples(accept)}

        assert shown("") == shown(OPENMETRICS)

    def test_no_series_is_exposed_twice(self) -> None:
        found = [(sample.name, frozenset(sample.labels.items())) for sample in samples()]
        assert len(found) == len(set(found))

    def test_exposition_has_no_created_series(self) -> None:
        assert not [sample for sample in samples() if sample.name.endswith("_created")]


class TestBuild:
    def test_build_info_names_the_service_s_version_and_revision(self) -> None:
        metrics.tell_build(Settings.isolated(BUILD_REVISION="0123abc"))
        assert metric("plinth_build_info", version=notes.__version__, revision="0123abc") == 1
        metrics.tell_build(Settings.isolated())
        assert metric("plinth_build_info", version=notes.__version__, revision="unknown") == 1
        assert len([sample for sample in samples() if sample.name == "plinth_build_info"]) == 1


class TestOperations:
    @pytest.mark.parametrize(
        ("statement", "name"),
        [
            ("SELECT 1", "SELECT"),
            ("\n  insert into item", "INSERT"),
            ("BEGIN;", "BEGIN"),
            ("COMMIT;", "COMMIT"),
            ("WITH a AS (SELECT 1) SELECT", "WITH"),
            ("VACUUM", "OTHER"),
            ("x'); DROP TABLE job", "OTHER"),
            ("", "OTHER"),
        ],
    )
    def test_sql_operations_are_labelled_by_their_first_word(self, statement: str, name: str) -> None:
        assert counted_as("postgresql", statement) == name

    @pytest.mark.parametrize(
        ("command", "name"), [("PUBLISH", "PUBLISH"), ("SCRIPT LOAD", "SCRIPT"), ("FLUSHALL", "OTHER")]
    )
    def test_redis_operations_are_labelled_from_a_fixed_set(self, command: str, name: str) -> None:
        assert counted_as("redis", command) == name


def counted_as(system: str, statement: str) -> str:
    """The name under which one more has been counted."""

    def counts() -> dict[str, float]:
        name = "db_client_operation_duration_seconds_count"
        found = [sample for sample in samples() if sample.name == name and sample.labels["db_system_name"] == system]
        return {sample.labels["db_operation_name"]: sample.value for sample in found}

    before = counts()
    db_operation(system, statement).observe(0.1)
    ((name, more),) = counts().items() - before.items()
    assert more == before.get(name, 0) + 1
    return name


class TestExemplar:
    def test_exemplar_is_the_sampled_trace(self) -> None:
        with TracerProvider().get_tracer("test").start_as_current_span("a") as span:
            found = exemplar()
        assert found is not None
        assert found[0] == format_trace_id(span.get_span_context().trace_id)
        assert abs(found[1] - time()) < 60

    def test_exemplar_is_none_without_a_sampled_trace(self) -> None:
        assert exemplar() is None
        with TracerProvider(sampler=ALWAYS_OFF).get_tracer("test").start_as_current_span("a"):
            assert exemplar() is None
