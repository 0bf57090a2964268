"""The settings of traces, most of them under OpenTelemetry's own names."""

import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field

from plinth.settings import types
from plinth.settings.general import GeneralSettings
from plinth.settings.secret_strength import is_example

__all__ = ["TraceSettings"]

GRPC_PORT = 4317
PROPAGATORS = ("tracecontext", "baggage", "b3", "b3multi", "xray", "gcp", "none")

# The specification's variables of other signals, exporters and processors, and of files that replace variables. The
# rest that begins with OTEL_ belongs to instrumentations, which the service may have, and to operators.
_IGNORED = re.compile(
    r"OTEL_(?:METRICS?|LOGS|LOG_LEVEL|LOGRECORD|BLRP|BSP|EXPORTER|CONFIG|EXPERIMENTAL_CONFIG|ENTITIES|TRACES|PYTHON_CONTEXT)(?:_.*)?"
)
# They put another provider of OpenTelemetry's in the place of ours, or end the process where they name one that is not
# installed.
_PROVIDERS = re.compile("OTEL_PYTHON_(?:TRACER|METER|LOGGER)_PROVIDER")


class TraceSettings(GeneralSettings):
    """Which traces are continued and recorded, and where spans are sent."""

    TRACEPARENT_ALLOW_IPS: types.Networks = ()

    OTEL_EXPORTER_OTLP_ENDPOINT: types.BaseUrl | None = None
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: types.Url | None = None
    OTEL_EXPORTER_OTLP_HEADERS: types.Headers | None = None
    OTEL_EXPORTER_OTLP_TRACES_HEADERS: types.Headers | None = None
    OTEL_EXPORTER_OTLP_PROTOCOL: types.Protocol = "http/protobuf"
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: types.Protocol | None = None
    OTEL_EXPORTER_OTLP_TIMEOUT: types.Milliseconds = 10_000
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT: types.Milliseconds | None = None
    OTEL_EXPORTER_OTLP_COMPRESSION: types.Compression = "none"
    OTEL_EXPORTER_OTLP_TRACES_COMPRESSION: types.Compression | None = None
    OTEL_EXPORTER_OTLP_CERTIFICATE: str | None = None
    OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE: str | None = None
    OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: str | None = None
    OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE: str | None = None
    OTEL_EXPORTER_OTLP_CLIENT_KEY: str | None = None
    OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY: str | None = None
    OTEL_TRACES_EXPORTER: types.Exporter = "otlp"
    OTEL_SDK_DISABLED: types.Switch = False
    OTEL_TRACES_SAMPLER: types.Sampler = "parentbased_traceidratio"
    OTEL_TRACES_SAMPLER_ARG: float = Field(0.1, ge=0, le=1)
    OTEL_PROPAGATORS: types.Propagators = ("tracecontext",)
    OTEL_SERVICE_NAME: str | None = Field(None, max_length=255)
    OTEL_RESOURCE_ATTRIBUTES: types.Attributes | None = None
    OTEL_BSP_MAX_QUEUE_SIZE: int = Field(2048, ge=1, le=100_000)
    # The standard's 512 take 12 ms to serialise, in which the event loop waits for the interpreter.
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE: int = Field(128, ge=1, le=100_000)
    OTEL_BSP_SCHEDULE_DELAY: int = Field(5000, ge=1, le=600_000)
    OTEL_ATTRIBUTE_COUNT_LIMIT: types.Limit = 128
    OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT: types.Limit | None = None
    OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT: types.Limit | None = None
    OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT: types.Limit | None = None
    OTEL_SPAN_EVENT_COUNT_LIMIT: types.Limit = 128
    OTEL_SPAN_LINK_COUNT_LIMIT: types.Limit = 128
    OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT: types.Limit | None = None
    OTEL_LINK_ATTRIBUTE_COUNT_LIMIT: types.Limit | None = None

    @property
    def traces_endpoint(self) -> str | None:
        """The URL that spans are sent to, over OTLP/HTTP. None: tracing is off."""
        if self.OTEL_SDK_DISABLED or self.OTEL_TRACES_EXPORTER == "none":
            return None
        if self.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not None:
            return self.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
        base = self.OTEL_EXPORTER_OTLP_ENDPOINT
        return None if base is None else f"{base}/v1/traces"

    def exporter_variable(self, option: str) -> str:
        """The variable that decides an `option` of the exporter, such as TIMEOUT: the traces' own if it is set."""
        own = f"OTEL_EXPORTER_OTLP_TRACES_{option}"
        return own if getattr(self, own) is not None else f"OTEL_EXPORTER_OTLP_{option}"

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        if self.traces_endpoint is None:
            return
        protocol = self.exporter_variable("PROTOCOL")
        if getattr(self, protocol) != "http/protobuf":
            yield (
                protocol,
                "expected http/protobuf, the only protocol that is supported; collectors have it on port 4318",
            )
        if self.OTEL_BSP_MAX_EXPORT_BATCH_SIZE > self.OTEL_BSP_MAX_QUEUE_SIZE:
            yield "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "expected no more than OTEL_BSP_MAX_QUEUE_SIZE"
        if urlsplit(self.traces_endpoint).scheme == "https":
            yield from self._wrong_files()

    def _wrong_files(self) -> Iterator[tuple[str, str]]:
        names = map(self.exporter_variable, ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"))
        authorities, certificate, key = names
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if (path := getattr(self, authorities)) is not None:
            try:
                context.load_verify_locations(**{"capath" if Path(path).is_dir() else "cafile": path})
            except (OSError, ValueError):  # ssl.SSLError is an OSError
                yield authorities, "expected a file of certificates in PEM"
        if (path := getattr(self, certificate)) is not None:
            try:
                # Without a password, OpenSSL asks for one on the terminal.
                context.load_cert_chain(path, getattr(self, key), "")
            except (OSError, ValueError):
                yield certificate, f"expected a file with a certificate in PEM, and its key there or in {key}"
        elif getattr(self, key) is not None:
            yield key, f"expected {certificate} too"

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
            headers = getattr(self, name)
            pairs = headers.get_secret_value().split(",") if headers is not None else ()
            if any(is_example(unquote(pair.partition("=")[2].strip())) for pair in pairs):
                yield name, "expected values of your own, not those that are printed as an example"

    @classmethod
    def wrong_variables(cls, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        yield from super().wrong_variables(environment)
        for name, value in environment.items():
            if _PROVIDERS.fullmatch(name) and value.strip():
                yield name, "not supported: the platform sets up OpenTelemetry by itself; unset it"

    def doubtful_variables(self, given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        yield from super().doubtful_variables(given)
        known = type(self).model_fields
        ignored = sorted(
            name for name, value in given.items() if value and name not in known and _IGNORED.fullmatch(name)
        )
        if ignored:
            yield ", ".join(ignored), "ignored: the platform sends traces alone, over OTLP/HTTP"
        if str(given.get("OTEL_SDK_DISABLED") or "false").lower() not in ("true", "false"):
            yield "OTEL_SDK_DISABLED", "counts as false: only true turns it on"
        if not set(self.OTEL_PROPAGATORS) <= set(PROPAGATORS):
            yield "OTEL_PROPAGATORS", f"names other than {', '.join(PROPAGATORS)} are ignored"
        if self.traces_endpoint is None:
            return
        endpoint, url = self.exporter_variable("ENDPOINT"), urlsplit(self.traces_endpoint)
        if url.port == GRPC_PORT:
            yield (
                endpoint,
                "port 4317 is that of OTLP over gRPC; spans are sent over HTTP, which collectors have on port 4318",
            )
        elif url.path.strip("/") == "":
            yield endpoint, "is the whole URL; collectors have traces at /v1/traces, which is not appended to it"
        elif url.path.endswith("/v1/traces/v1/traces"):
            yield endpoint, "/v1/traces is appended to it, where it is already"
        timeout = self.exporter_variable("TIMEOUT")
        if 0 < getattr(self, timeout) < 100:
            yield timeout, "is in milliseconds, in which hardly any collector answers"
