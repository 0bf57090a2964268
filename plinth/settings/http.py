"""The settings of the HTTP API: its paths, its documentation, what it accepts and how much of it."""

from collections.abc import Iterator

from pydantic import Field

from plinth.settings import types
from plinth.settings.general import Environment, GeneralSettings

__all__ = ["HttpSettings"]


class HttpSettings(GeneralSettings):
    """What the API serves, and which requests it refuses before they reach an endpoint."""

    API_V1_STR: types.PathPrefix = "/api/v1"
    ROOT_PATH: types.PathPrefix | None = None
    DOCS_ENABLED: bool | None = None
    BACKEND_CORS_ORIGINS: types.CorsOrigins = ()
    BACKEND_CORS_ALLOW_HEADERS: types.HeaderNames = ()
    BACKEND_CORS_EXPOSE_HEADERS: types.HeaderNames = ()
    MAX_BODY_BYTES: int = Field(1_048_576, ge=1)
    MAX_HEAD_BYTES: int = Field(32_768, ge=1024)
    MAX_HEADERS: int = Field(100, ge=10)
    MAX_CONNECTIONS: int = Field(1000, ge=1)
    HEAD_TIMEOUT: types.Seconds = 10
    MIN_BYTES_PER_SECOND: int = Field(500, ge=1)
    FORWARDED_ALLOW_IPS: types.Networks = ("127.0.0.1",)
    RATE_LIMIT: types.Rate = "600/minute"
    RATE_LIMIT_ANONYMOUS: types.Rate = "60/minute"
    MAX_REQUESTS_PER_CALLER: int | None = Field(None, ge=1)

    @property
    def docs_enabled(self) -> bool:
        """Whether /docs and the OpenAPI document are served."""
        if self.DOCS_ENABLED is None:
            return self.ENVIRONMENT is not Environment.PRODUCTION
        return self.DOCS_ENABLED

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        if "*" in self.BACKEND_CORS_ORIGINS:
            yield "BACKEND_CORS_ORIGINS", "expected origins by name, not *: they may send credentials"
        if "*" in self.FORWARDED_ALLOW_IPS:
            yield "FORWARDED_ALLOW_IPS", "expected the addresses of proxies, not *: any client could choose its address"
