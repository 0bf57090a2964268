"""The settings of logs and traces."""

import re
from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import unquote

from pydantic import Field

from plinth.settings import types
from plinth.settings.general import GeneralSettings
from plinth.settings.secret_strength import is_example

__all__ = ["TelemetrySettings"]

# OpenTelemetry's SDK reads these by itself when it is imported, and fails with a traceback if one is not a number.
_SPAN_LIMITS = tuple(
    f"OTEL_{name}_LIMIT"
    for name in (
        *("ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH", "SPAN_ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_VALUE_LENGTH"),
        *("SPAN_EVENT_COUNT", "SPAN_LINK_COUNT", "EVENT_ATTRIBUTE_COUNT", "LINK_ATTRIBUTE_COUNT"),
    )
)


class TelemetrySettings(GeneralSettings):
    """What is logged, and where spans are sent."""

    LOG_LEVEL: types.LogLevel = "INFO"
    LOG_FORMAT: Literal["auto", "json", "console"] = "auto"
    LOG_ACCESS_SAMPLE: float = Field(1.0, ge=0, le=1)
    LOG_SLOW_REQUEST: types.Seconds = 1.0
    TRACEPARENT_ALLOW_IPS: types.Networks = ()

    # The names are OpenTelemetry's. Its exporter reads its other variables from the environment by itself.
    OTEL_EXPORTER_OTLP_ENDPOINT: types.BaseUrl | None = None
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: types.Url | None = None
    OTEL_EXPORTER_OTLP_HEADERS: types.Headers | None = None
    OTEL_EXPORTER_OTLP_TRACES_HEADERS: types.Headers | None = None
    OTEL_EXPORTER_OTLP_PROTOCOL: str = "http/protobuf"
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: str | None = None
    OTEL_TRACES_EXPORTER: Literal["otlp", "none"] = "otlp"
    OTEL_SDK_DISABLED: bool = False
    OTEL_TRACES_SAMPLER: types.Sampler = "parentbased_traceidratio"
    OTEL_TRACES_SAMPLER_ARG: float = Field(0.1, ge=0, le=1)
    OTEL_SERVICE_NAME: str | None = Field(None, max_length=255)
    OTEL_RESOURCE_ATTRIBUTES: types.Attributes | None = None
    OTEL_BSP_MAX_QUEUE_SIZE: int = Field(2048, ge=1, le=100_000)
    # The standard's 512 take 12 ms to serialise, in which the event loop waits for the interpreter.
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE: int = Field(128, ge=1, le=100_000)
    OTEL_BSP_SCHEDULE_DELAY: int = Field(5000, ge=1, le=600_000)

    @property
    def traces_endpoint(self) -> str | None:
        """The URL that spans are sent to, over OTLP/HTTP. None: tracing is off."""
        if self.OTEL_SDK_DISABLED or self.OTEL_TRACES_EXPORTER == "none":
            return None
        if self.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not None:
            return self.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
        base = self.OTEL_EXPORTER_OTLP_ENDPOINT
        return None if base is None else f"{base}/v1/traces"

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        if self.traces_endpoint is None:
            return
        own = self.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
        if (own or self.OTEL_EXPORTER_OTLP_PROTOCOL) != "http/protobuf":
            name = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" if own else "OTEL_EXPORTER_OTLP_PROTOCOL"
            yield name, "expected http/protobuf, the only protocol that is supported"
        if self.OTEL_BSP_MAX_EXPORT_BATCH_SIZE > self.OTEL_BSP_MAX_QUEUE_SIZE:
            yield "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "expected no more than OTEL_BSP_MAX_QUEUE_SIZE"

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
        for name in _SPAN_LIMITS:
            if not re.fullmatch(r"\d*", environment.get(name, "").strip(), re.ASCII):
                yield name, "expected a whole number, 0 or more"
