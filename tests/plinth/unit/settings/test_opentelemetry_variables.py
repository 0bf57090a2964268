"""Every variable of OpenTelemetry's specification is supported, ignored with one warning, or refused with a sentence.

The list is that of https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and of
https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from opentelemetry.sdk import environment_variables

from plinth.settings import PlatformSettings
from tests.support.settings import problems, run

ENDPOINT = "http://collector:4318"

# A good value, and bad ones.
SUPPORTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "OTEL_RESOURCE_ATTRIBUTES": ("a=b,c%20d=e", ("no pairs",)),
    "OTEL_SERVICE_NAME": ("shop", ("s" * 256,)),
    "OTEL_TRACES_SAMPLER": ("AlwaYs_on", ("xray", "jaeger_remote", "nonsense")),
    "OTEL_TRACES_SAMPLER_ARG": ("0.5", ("half", "2", "-1", "nan")),
    "OTEL_BSP_SCHEDULE_DELAY": ("100", ("5s", "-1", "1.5")),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("512", ("many", "0", "-1")),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("64", ("many", "0", "4096")),
    "OTEL_TRACES_EXPORTER": ("OTLP", ("zipkin", "console", "otlp/stdout")),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://collector:4318", ("collector:4317", "grpc://collector")),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("http://collector:4318/v1/traces", ("collector:4317",)),
    "OTEL_EXPORTER_OTLP_HEADERS": ("a=b", ("no pair", "a%0Ab=c")),
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": ("a=b", ("no pair",)),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("HTTP/Protobuf", ("grpc", "http/json", "nonsense")),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf", ("grpc",)),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("10000", ("10s", "-1", "0.5", "1e4")),
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": ("10000", ("ten",)),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("GZIP", ("zstd", "snappy")),
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": ("none", ("zstd",)),
    **dict.fromkeys(
        (
            *("OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT"),
            *("OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"),
            *("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
        ),
        ("64", ("many", "-1", "1.0", "unset", "1_000", "\u0663")),
    ),
}
BAD = [(name, value) for name, (_, values) in SUPPORTED.items() for value in values]
FILES = {
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
}
# A value that is not known counts as none, which a warning says: so the specification has it.
LENIENT = {"OTEL_SDK_DISABLED": ("true", "1"), "OTEL_PROPAGATORS": ("tracecontext,baggage,b3", "nonsense")}
IGNORED = (
    "OTEL_LOG_LEVEL",
    "OTEL_BSP_EXPORT_TIMEOUT",
    *(f"OTEL_BLRP_{name}" for name in ("SCHEDULE_DELAY", "EXPORT_TIMEOUT", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE")),
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
    "OTEL_EXPORTER_ZIPKIN_TIMEOUT",
    "OTEL_EXPORTER_ZIPKIN_PROTOCOL",
    "OTEL_EXPORTER_JAEGER_ENDPOINT",
    "OTEL_EXPORTER_PROMETHEUS_HOST",
    "OTEL_EXPORTER_PROMETHEUS_PORT",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_CONFIG_FILE",
    "OTEL_EXPERIMENTAL_CONFIG_FILE",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_OTLP_SPAN_INSECURE",
    "OTEL_EXPORTER_OTLP_METRIC_INSECURE",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    *(
        f"OTEL_EXPORTER_OTLP_{signal}_{option}"
        for signal in ("METRICS", "LOGS")
        for option in (
            *("ENDPOINT", "HEADERS", "PROTOCOL", "TIMEOUT", "COMPRESSION", "INSECURE"),
            *("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"),
        )
    ),
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    "OTEL_PYTHON_CONTEXT",
)


@pytest.fixture
def traces_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)


def warned() -> list[str]:
    return [name for name, _ in PlatformSettings().warnings]


@pytest.mark.usefixtures("traces_are_on")
class TestSupported:
    @pytest.mark.parametrize("name", SUPPORTED)
    @pytest.mark.parametrize("blanks", ["{}", " {}\n"])
    def test_good_value_is_accepted(self, monkeypatch: pytest.MonkeyPatch, name: str, blanks: str) -> None:
        monkeypatch.setenv(name, blanks.format(SUPPORTED[name][0]))
        settings = PlatformSettings()
        assert name in settings.model_fields_set
        assert settings.warnings == ()

    @pytest.mark.parametrize(
        ("name", "value"), [(name, bad) for name, (_, all_bad) in SUPPORTED.items() for bad in all_bad]
    )
    def test_bad_value_is_refused_with_a_sentence(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        (problem,) = problems(PlatformSettings)
        assert problem.startswith(f"{name} (environment): ")
        assert value not in problem.partition(": ")[2].replace("4318", "")

    @pytest.mark.parametrize("name", [*SUPPORTED, *sorted(FILES), *LENIENT])
    @pytest.mark.parametrize("empty", ["", "  "])
    def test_empty_value_counts_as_not_set(self, monkeypatch: pytest.MonkeyPatch, name: str, empty: str) -> None:
        monkeypatch.setenv(name, empty)
        settings = PlatformSettings()
        assert name not in settings.model_fields_set
        assert settings.warnings == ()

    @pytest.mark.parametrize("name", sorted(FILES))
    def test_file_that_cannot_be_used_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
    ) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector")
        (tmp_path / "empty.pem").touch()
        for path in ("missing.pem", "empty.pem"):
            monkeypatch.setenv(name, str(tmp_path / path))
            (problem,) = problems(PlatformSettings)
            assert problem.startswith(f"{name} (environment): expected ")


@pytest.mark.usefixtures("traces_are_on")
def test_files_that_can_be_used_are_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "collector")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + timedelta(days=9999))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ca.pem").write_bytes(certificate)
    (tmp_path / "client.key").write_bytes(private)
    (tmp_path / "both.pem").write_bytes(certificate + private)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector")
    for authorities, client, client_key in (("ca.pem", "ca.pem", "client.key"), (".", "both.pem", None)):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / authorities))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(tmp_path / client))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(tmp_path / client_key) if client_key else "")
        assert PlatformSettings().warnings == ()
    # Without TLS they have no effect, and are not looked at.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/missing.pem")
    PlatformSettings()


def test_only_true_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("true", "True", "TRUE", " true\n"):
        monkeypatch.setenv("OTEL_SDK_DISABLED", value)
        settings = PlatformSettings()
        assert settings.OTEL_SDK_DISABLED
        assert settings.warnings == ()
    for value in ("1", "yes", "on", "t", "nonsense"):
        monkeypatch.setenv("OTEL_SDK_DISABLED", value)
        settings = PlatformSettings()
        assert not settings.OTEL_SDK_DISABLED
        assert settings.warnings == (("OTEL_SDK_DISABLED", "counts as false: only true turns it on"),)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "False")
    assert warned() == []


@pytest.mark.parametrize("value", ["b3", "xray", "tracecontext,b3", "TraceContext , Baggage", "none"])
def test_propagators_are_a_setting(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", value)
    settings = PlatformSettings()
    assert tuple(name.strip().lower() for name in value.split(",")) == settings.OTEL_PROPAGATORS
    assert settings.warnings == ()


@pytest.mark.parametrize("value", ["jaeger", "ottrace", "tracecontext,solarwinds", "nonsense"])
def test_propagator_that_is_not_supported_is_ignored_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", value)
    assert warned() == ["OTEL_PROPAGATORS"]


@pytest.mark.parametrize("name", IGNORED)
@pytest.mark.parametrize("value", ["none", "nonsense", "-1"])
def test_variable_of_what_there_is_not_is_ignored_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert warned() == [name]
    monkeypatch.setenv(name, "")
    assert warned() == []


def test_all_ignored_variables_have_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in IGNORED:
        monkeypatch.setenv(name, "nonsense")
    ((names, _),) = PlatformSettings().warnings
    assert names.split(", ") == sorted(IGNORED)


def test_variables_of_instrumentations_and_operators_have_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_PYTHON_EXCLUDED_URLS",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "OTEL_NODE_IP",
        "OTEL_RESOURCE_PROVIDERS",
    ):
        monkeypatch.setenv(name, "x")
    assert warned() == []


@pytest.mark.parametrize("signal", ["TRACER", "METER", "LOGGER"])
def test_provider_that_would_replace_the_platforms_is_refused(monkeypatch: pytest.MonkeyPatch, signal: str) -> None:
    monkeypatch.setenv(f"OTEL_PYTHON_{signal}_PROVIDER", "nonsense")
    (problem,) = problems(PlatformSettings)
    assert problem.startswith(f"OTEL_PYTHON_{signal}_PROVIDER (environment): not supported")


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_port_of_grpc_has_a_hint(name: str) -> None:
    settings = PlatformSettings.isolated(**{name: "http://collector:4317"})
    ((warned_of, reason),) = settings.warnings
    assert warned_of == name
    assert "gRPC" in reason
    assert "4318" in reason


@pytest.mark.parametrize(
    ("name", "url", "hint"),
    [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318", "at /v1/traces, which is not appended"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/", "at /v1/traces, which is not appended"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/v1/traces/", "/v1/traces is appended to it"),
    ],
)
def test_path_that_hardly_any_collector_has_is_a_warning(name: str, url: str, hint: str) -> None:
    ((warned_of, reason),) = PlatformSettings.isolated(**{name: url}).warnings
    assert warned_of == name
    assert hint in reason


@pytest.mark.parametrize("url", ["http://collector", "https://otlp.example/otlp", "http://[::1]:4318/"])
def test_base_of_a_url_is_no_warning(url: str) -> None:
    assert PlatformSettings.isolated(OTEL_EXPORTER_OTLP_ENDPOINT=url).warnings == ()


def test_timeout_that_was_meant_in_seconds_has_a_warning() -> None:
    settings = PlatformSettings.isolated(OTEL_EXPORTER_OTLP_ENDPOINT=ENDPOINT, OTEL_EXPORTER_OTLP_TIMEOUT="10")
    ((name, reason),) = settings.warnings
    assert name == "OTEL_EXPORTER_OTLP_TIMEOUT"
    assert "milliseconds" in reason


def test_lists_of_this_file_are_those_of_the_sdk() -> None:
    """A variable that a new release of the SDK reads fails here, until its fate is decided."""
    names = {name for name in vars(environment_variables) if name.startswith("OTEL_")}
    decided = {*SUPPORTED, *FILES, *LENIENT, *IGNORED}
    left = {name for name in names - decided if not re.match("OTEL_(EXPERIMENTAL_RESOURCE_DETECTORS|PYTHON_)", name)}
    assert len(names) > 60
    assert left == set()


@pytest.mark.parametrize("value", ["b3", "xray", "tracecontext,b3", "nonsense", ",", ""])
def test_no_propagator_stops_an_import(value: str) -> None:
    done = run(
        "import plinth, os, fastapi.telemetry; print(os.environ['OTEL_PROPAGATORS'])",
        OTEL_PROPAGATORS=value,
        OTEL_PYTHON_CONTEXT="nonsense",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{value}\n"


def test_no_bad_value_stops_the_import_of_a_service() -> None:
    """Even a wrong setting lets its process come as far as the message that names it."""
    bad = {name: values[0] for name, (_, values) in SUPPORTED.items()} | dict.fromkeys(IGNORED, "nonsense")
    done = run("import notes.main", **bad, **{name: value for name, (_, value) in LENIENT.items()})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
@pytest.mark.parametrize("folder", ["there", "nowhere"])
def test_mode_of_several_processes_stops_no_import_and_keeps_no_metric(tmp_path: Path, name: str, folder: str) -> None:
    """Shared ConfigMaps set it for services under gunicorn. With a volume, counters went on where they had been."""
    (tmp_path / "there").mkdir()
    code = "import plinth, os; from plinth.telemetry.metrics import db_error; db_error('redis', 'other');"
    code += f"print(os.environ[{name!r}])"
    done = run(code, **{name: str(tmp_path / folder)})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / folder}\n"
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_mode_of_several_processes_is_ignored_with_a_warning(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/tmp/metrics")
    assert warned() == [name]
