"""What the exporter, the resource and the limits take from the settings."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.export import SpanExportResult

from plinth.telemetry import span_exporter
from plinth.telemetry.span_exporter import _Exporter, _options, _Session
from plinth.telemetry.tracer_provider import _limits, _resource, build_tracer_provider
from tests.support.collector import collecting
from tests.support.logs import logging_as
from tests.support.notes import settings_with


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({}, 10),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "2500"}, 2.5),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "3000"}, 3),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, (2**31 - 1) / 1000),
    ],
)
def test_timeout_is_in_milliseconds(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], seconds: float) -> None:
    # The exporter, left to itself, takes the variable for seconds.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "7")
    options = _options(settings_with(**values))
    exporter = _Exporter(lambda *_: None, endpoint="http://collector", session=_Session(), **options)
    assert exporter._client._timeout == seconds


def test_compression_may_be_in_capitals() -> None:
    assert _options(settings_with(OTEL_EXPORTER_OTLP_COMPRESSION="GZIP"))["compression"] is Compression.Gzip


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificate_wins_over_the_bundle_of_requests(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    used: list[Any] = []

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            used.append(options["verify"])
            raise requests.RequestException("away")  # which is not tried again

    monkeypatch.setenv(variable, "/etc/bundle.pem")
    for certificate, expected in (("/etc/collector.pem", "/etc/collector.pem"), (None, "/etc/bundle.pem")):
        session = _Session()
        session.mount("https://", Adapter())
        options = _options(settings_with(OTEL_EXPORTER_OTLP_CERTIFICATE=certificate))
        exporter = _Exporter(lambda *_: None, endpoint="https://collector", session=session, **options)
        exporter.export([])
        assert set(used) == {expected}
        used.clear()


def test_names_of_resource_attributes_are_percent_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "team%20name=a%2Cb,plain=c=d,service.name=x"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", given)  # which the SDK reads too
    found = _resource(settings_with(OTEL_RESOURCE_ATTRIBUTES=given), "api").attributes
    assert found["team name"] == "a,b"
    assert found["plain"] == "c=d"
    assert found["service.name"] == "x"
    assert not [name for name in found if "%" in name]


def test_limits_fall_back_to_the_general_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    # The SDK takes an empty variable for none at all, where the specification has the default.
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "")
    assert repr(_limits(settings_with())) == repr(
        SpanLimits(max_attributes=128, max_span_attributes=128, max_events=128, max_links=128)
    )
    found = _limits(settings_with(OTEL_ATTRIBUTE_COUNT_LIMIT="7", OTEL_LINK_ATTRIBUTE_COUNT_LIMIT="3"))
    assert (found.max_attributes, found.max_span_attributes, found.max_event_attributes) == (7, 7, 7)
    assert found.max_link_attributes == 3


@pytest.fixture
def grpc_server() -> Iterator[str]:
    """A port that answers with a frame of HTTP/2, as gRPC does."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()


def test_answer_in_grpc_has_a_hint(grpc_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str | None] = []
    monkeypatch.setattr(span_exporter, "_messages", [])
    options = _options(settings_with())
    exporter = _Exporter(lambda _, problem: told.append(problem), endpoint=grpc_server, session=_Session(), **options)
    assert exporter.export([]) is SpanExportResult.FAILURE
    assert "4318" in str(told[0])


@pytest.mark.parametrize("name", ["CERTIFICATE", "TRACES_CERTIFICATE", "CLIENT_CERTIFICATE", "TRACES_CLIENT_KEY"])
def test_a_variable_of_blanks_names_no_file(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", "  ")  # which the exporter reads too
    session = _Session()
    _Exporter(lambda *_: None, endpoint="https://collector", session=session, **_options(settings_with()))
    assert (session.verify, session.cert) == (True, None)


def test_headers_of_the_environment_do_not_go_beside_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where OTEL_EXPORTER_OTLP_TRACES_HEADERS_FILE names those for the traces' own collector."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=that-of-another-collector")
    with collecting() as collector:
        endpoint, session = f"{collector.url}/v1/traces", _Session({"X-Own": "1"})
        exporter = _Exporter(lambda *_: None, endpoint=endpoint, session=session, **_options(settings_with()))
        assert exporter.export([]) is SpanExportResult.SUCCESS
    (sent,) = collector.headers
    assert (sent["x-own"], sent["content-type"]) == ("1", "application/x-protobuf")
    assert "x-key" not in sent


def test_the_sdk_complains_of_no_variable_that_the_settings_have_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_EXPORT_TIMEOUT", "nonsense")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "a=b, ,")
    with logging_as(LOG_FORMAT="json") as log:
        settings = settings_with(OTEL_RESOURCE_ATTRIBUTES="a=b, ,")
        _, processor = build_tracer_provider(settings, "http://collector", "api")
        processor.shutdown()
    assert log.lines() == []
