import pytest
from opentelemetry.sdk import trace as sdk_trace

from plinth.settings import PlatformSettings
from tests.support.settings import isolated_problems, run


def test_traces_are_off_without_an_endpoint() -> None:
    assert PlatformSettings.isolated().traces_endpoint is None


@pytest.mark.parametrize(
    ("values", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}, "http://collector:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otlp.example/otlp"}, "https://otlp.example/otlp/v1/traces"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/own"},
            "http://b/own",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_traces_go_to_the_endpoint_that_opentelemetry_specifies(values: dict[str, str], endpoint: str | None) -> None:
    assert PlatformSettings.isolated(**values).traces_endpoint == endpoint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:password@collector"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "10"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "no-pair"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,two words=c"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=two%0Alines"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=%20the-key"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=the-key%20"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=\u00fc"),
        ("OTEL_RESOURCE_ATTRIBUTES", "no pairs"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,=c"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
        ("LOG_ACCESS_SAMPLE", "1.1"),
    ],
)
def test_wrong_setting_of_traces_is_refused(name: str, value: str) -> None:
    (problem,) = isolated_problems(**{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", name: value})
    assert problem.startswith(f"{name} (argument): ")
    assert value not in problem


@pytest.mark.parametrize("headers", ["x-api-key=the-key", "Authorization=Basic YTpi==, b = c%2Cd", "a=b,"])
def test_headers_of_the_trace_exporter_are_accepted(headers: str) -> None:
    found = PlatformSettings.isolated(OTEL_EXPORTER_OTLP_HEADERS=headers).OTEL_EXPORTER_OTLP_HEADERS
    assert found is not None
    assert found.get_secret_value() == headers


def test_protocol_is_not_checked_while_traces_are_off() -> None:
    assert PlatformSettings.isolated(OTEL_EXPORTER_OTLP_PROTOCOL="grpc").traces_endpoint is None


def test_traces_protocol_takes_precedence_over_the_general_one() -> None:
    names = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
    values = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", **dict(zip(names, ("grpc", "http/protobuf"), strict=True))}
    assert PlatformSettings.isolated(**values).traces_endpoint == "http://a/v1/traces"


@pytest.mark.parametrize("value", ["0", " 128 ", ""])
def test_span_limit_that_the_sdk_reads_is_accepted(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", value)
    PlatformSettings()
    sdk_trace.SpanLimits()


def test_sampler_may_be_in_capitals() -> None:
    assert PlatformSettings.isolated(OTEL_TRACES_SAMPLER="Always_On").OTEL_TRACES_SAMPLER == "always_on"


def test_variables_of_other_signals_are_not_misspellings() -> None:
    names = (
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_METRICS_EXPORTER",
        "OTEL_LOGS_EXPORTER",
        "OTEL_PROPAGATORS",
    )
    code = "from plinth.settings import PlatformSettings; PlatformSettings()"
    assert run(code, **dict.fromkeys(names, "none")).returncode == 0
