"""The configuration: every setting, where it comes from, and what is refused.

Values come from the environment, then from `.env` in the working directory, then from the defaults. No other
module reads the environment, and nothing is read at import. A service subclasses `PlatformSettings`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic import ValidationError as PydanticError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from plinth.settings import dsn, env_file, types, urls
from plinth.settings.service import Service

DEVELOPMENT_SECRET_KEY = "for-development-only-do-not-deploy-me"  # noqa: S105 - a deployment refuses it
LOCAL_ISSUER = "plinth-local"

# The server ends a slow statement and says so; this much later the client gives up on a frozen server.
COMMAND_TIMEOUT_MARGIN = 0.2  # seconds
IDLE_IN_TRANSACTION_TIMEOUT = 60  # seconds until the server frees the locks of a client that hangs

# OpenTelemetry's SDK reads these by itself, when it is imported, and says in a traceback that it cannot.
_SPAN_LIMITS = tuple(
    f"OTEL_{name}_LIMIT"
    for name in (
        *("ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH", "SPAN_ATTRIBUTE_COUNT", "SPAN_ATTRIBUTE_VALUE_LENGTH"),
        *("SPAN_EVENT_COUNT", "SPAN_LINK_COUNT", "EVENT_ATTRIBUTE_COUNT", "LINK_ATTRIBUTE_COUNT"),
    )
)

# Here an empty value says something; everywhere else it says that the variable is not set.
_MAY_BE_EMPTY = ("RATE_LIMIT", "RATE_LIMIT_ANONYMOUS")


class Environment(StrEnum):
    LOCAL = "local"
    TEST = "test"
    STAGING = "staging"
    PRODUCTION = "production"

    @property
    def deployed(self) -> bool:
        """Whether others can reach it, so that nothing made for development is accepted."""
        return self in (Environment.STAGING, Environment.PRODUCTION)


class AuthProvider(StrEnum):
    SUPABASE = "supabase"
    CLERK = "clerk"
    CUSTOM = "custom"
    LOCAL = "local"


class SettingsError(Exception):
    """The configuration cannot be used. Lists every problem, and quotes no value: any could be a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n  - ".join(["The configuration cannot be used:", *self.problems])


class PlatformSettings(BaseSettings):
    """The settings of the platform, under their names in the environment. `.env.example` explains them one by one.

    Lists are written `a,b` or in JSON. Raises SettingsError.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        case_sensitive=True,
        hide_input_in_errors=True,
        dotenv_filtering="only_existing",  # `env_file.scan` reports the other keys, and says it better
    )

    service: ClassVar[Service]
    """The service that these settings are of. A service sets it in its own settings class."""

    PROJECT_NAME: str = Field("Plinth", max_length=63)  # PostgreSQL cuts application_name there
    ENVIRONMENT: Environment = Environment.LOCAL
    DEBUG: bool = False
    LOG_LEVEL: types.LogLevel = "INFO"
    LOG_FORMAT: Literal["auto", "json", "console"] = "auto"
    LOG_ACCESS_SAMPLE: float = Field(1.0, ge=0, le=1)
    LOG_SLOW_REQUEST: types.Seconds = 1.0
    SECRET_KEY: SecretStr = SecretStr(DEVELOPMENT_SECRET_KEY)
    API_V1_STR: types.PathPrefix = "/api/v1"
    DOCS_ENABLED: bool | None = None
    BACKEND_CORS_ORIGINS: types.CorsOrigins = ()
    MAX_BODY_BYTES: int = Field(1_048_576, ge=1)
    FORWARDED_ALLOW_IPS: str = "127.0.0.1"

    DATABASE_URL: types.DatabaseUrl = SecretStr("postgresql://plinth:plinth@localhost:5432/plinth")
    DB_POOL_SIZE: int = Field(10, ge=1)
    DB_MAX_OVERFLOW: int = Field(0, ge=0)
    DB_POOL_TIMEOUT: types.Seconds = 0.7
    DB_CONNECT_TIMEOUT: types.Seconds = 0.8
    DB_STATEMENT_TIMEOUT: types.Seconds = 1.3
    DB_USE_NULL_POOL: bool = False
    DB_TRANSACTION_POOLER: bool = False

    REDIS_URL: types.RedisUrl | None = None
    REDIS_TIMEOUT: types.Seconds = 0.25
    UPSTASH_REDIS_URL: types.BaseUrl | None = None
    UPSTASH_REDIS_TOKEN: SecretStr | None = None

    JOBS_QUEUES: types.Names = ("default",)
    JOBS_CONCURRENCY: int = Field(20, ge=1, le=1000)
    JOBS_POLL_INTERVAL: types.Seconds = 1.0
    JOBS_SESSION_TIMEOUT: float = Field(10.0, ge=2, le=300)
    JOBS_SHUTDOWN_GRACE: types.Seconds = 25.0
    JOBS_MAX_CRASHES: int = Field(5, ge=1)
    JOBS_KEEP_SUCCEEDED_DAYS: types.Days = 7.0
    JOBS_KEEP_DISCARDED_DAYS: types.Days = 90.0

    # The names are OpenTelemetry's. What else its exporter knows, it reads in the environment by itself.
    OTEL_EXPORTER_OTLP_ENDPOINT: types.BaseUrl | None = None
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: types.Url | None = None
    OTEL_EXPORTER_OTLP_HEADERS: types.Headers | None = None
    OTEL_EXPORTER_OTLP_TRACES_HEADERS: types.Headers | None = None
    OTEL_EXPORTER_OTLP_PROTOCOL: str = "http/protobuf"
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: str | None = None
    OTEL_TRACES_EXPORTER: Literal["otlp", "none"] = "otlp"
    OTEL_TRACES_SAMPLER: types.Sampler = "parentbased_traceidratio"
    OTEL_TRACES_SAMPLER_ARG: float = Field(0.1, ge=0, le=1)
    OTEL_SERVICE_NAME: str | None = Field(None, max_length=255)
    OTEL_RESOURCE_ATTRIBUTES: types.Attributes | None = None
    OTEL_SDK_DISABLED: bool = False
    OTEL_BSP_MAX_QUEUE_SIZE: int = Field(2048, ge=1, le=100_000)
    # Not the standard's 512: writing so many down takes 12 ms, in which the event loop waits for the interpreter.
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE: int = Field(128, ge=1, le=100_000)
    OTEL_BSP_SCHEDULE_DELAY: int = Field(5000, ge=1, le=600_000)

    METRICS_PORT: int = Field(9090, ge=0, le=65535)
    BUILD_REVISION: str = "unknown"
    DRAIN_SECONDS: float = Field(5.0, ge=0, le=300)

    READINESS_REQUIRED: types.Components = ("database",)
    RATE_LIMIT: types.Rate = "600/minute"
    RATE_LIMIT_ANONYMOUS: types.Rate = "60/minute"

    OPERATOR_ROLE: str | None = None
    OPERATOR_SCOPE: str | None = None

    AUTH_PROVIDER: AuthProvider = AuthProvider.LOCAL
    SUPABASE_URL: types.BaseUrl | None = None
    SUPABASE_JWT_SECRET: types.HmacSecret | None = None
    CLERK_ISSUER: types.BaseUrl | None = None
    CLERK_AUTHORIZED_PARTIES: types.Origins = ()
    OIDC_ISSUER: types.Url | None = None
    OIDC_AUDIENCE: str | None = None
    OIDC_JWKS_URL: types.Url | None = None
    OIDC_ALGORITHMS: types.Algorithms = ("RS256",)

    def __init__(self, *, _env_file: Path | str | None = ".env", _environment: bool = True, **values: Any) -> None:
        problems = self._load(_env_file, _environment, values)
        if problems:
            # Raised while no other exception is handled, and where no value that was read is at hand: a report of
            # the error may show its context and the local variables.
            raise SettingsError(problems)

    @classmethod
    def isolated(cls, **values: Any) -> Self:
        """Settings made of `values` and the defaults alone: neither the environment nor `.env` is read."""
        return cls(_env_file=None, _environment=False, **values)

    def _load(self, path: Path | str | None, from_environment: bool, values: dict[str, Any]) -> list[str]:
        """Read and check everything. Returns what is wrong, and where it came from."""
        known = type(self).model_fields
        environment = os.environ if from_environment else {}
        keys, problems = env_file.scan(Path(path), known) if path else ((), [])
        given = {"argument": values, "environment": environment, str(path): keys}

        for name, right in env_file.misspelt(environment, known):
            if not any(right in names for names in given.values()):
                problems.append(
                    f"{name} (environment): did you mean {right}? If it belongs to another program, set {right} too"
                )
        for name in _SPAN_LIMITS:
            if not re.fullmatch(r"\d*", environment.get(name, "").strip(), re.ASCII):
                problems.append(f"{name} (environment): expected a whole number, 0 or more")
        try:
            if from_environment:
                super().__init__(_env_file=path if keys else None, **values)
            else:
                super().__init__(_build_sources=((InitSettingsSource(type(self), values),), values))
        except _Refused as refused:
            for name, what in refused.problems.items():
                origin = next((origin for origin, names in given.items() if name in names), "not set")
                problems.append(f"{name} ({origin}): {what}")
        return problems

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings

    @model_validator(mode="wrap")
    @classmethod
    def _collect_problems(cls, data: dict[str, Any], validate: ModelWrapValidatorHandler[Self]) -> Self:
        # Values that come out of files and secrets often end in a newline.
        data = {name: value.strip() if isinstance(value, str) else value for name, value in data.items()}
        data = {name: value for name, value in data.items() if value != "" or name in _MAY_BE_EMPTY}
        try:
            settings = validate(data)
            problems: dict[str, str] = {}
        except PydanticError as error:
            problems = dict(_describe(error, cls.model_fields))
            # Once more without the wrong values, to see what else is wrong: one message tells all.
            settings = validate({name: value for name, value in data.items() if name not in problems})
        for name, what in _broken_rules(settings):
            problems.setdefault(name, what)
        if problems:
            raise _Refused(problems)
        return settings

    @field_validator("DB_TRANSACTION_POOLER")
    @classmethod
    def _detect_pooler(cls, value: bool, info: ValidationInfo) -> bool:
        address = _postgres(info.data["DATABASE_URL"]) if "DATABASE_URL" in info.data else None
        return value or (address is not None and address.transaction_pooler)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        # Pydantic's error for a frozen model quotes the value, whatever `hide_input_in_errors` says.
        raise AttributeError(f"Settings are frozen: {name} cannot be set")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("Settings are not pickled: they hold secrets")

    @property
    def docs_enabled(self) -> bool:
        if self.DOCS_ENABLED is None:
            return self.ENVIRONMENT is not Environment.PRODUCTION
        return self.DOCS_ENABLED

    @property
    def async_database_url(self) -> str:
        """The URL for `create_async_engine`, to be used with `database_connect_args`. Holds the password."""
        address = _postgres(self.DATABASE_URL)
        return address.for_asyncpg() if address else self.DATABASE_URL.get_secret_value()

    @property
    def sync_database_url(self) -> str:
        """The URL for psql and pg_dump. Holds the password, so hand it on in the environment."""
        address = _postgres(self.DATABASE_URL)
        return address.for_libpq() if address else self.DATABASE_URL.get_secret_value().replace("+aiosqlite", "")

    @property
    def database_connect_args(self) -> dict[str, Any]:
        """What asyncpg needs beside the URL: time limits, TLS, session settings, the pooler mode.

        Raises SettingsError when a certificate cannot be loaded.
        """
        address = _postgres(self.DATABASE_URL)
        if address is None:
            return {}
        problem = ""
        try:
            from_url = address.connect_arguments()
        except ValueError as error:
            problem = f"DATABASE_URL: {error}"
        if problem:
            raise SettingsError([problem])
        session = {
            "application_name": self.PROJECT_NAME,
            "statement_timeout": _milliseconds(self.DB_STATEMENT_TIMEOUT),
            "idle_in_transaction_session_timeout": _milliseconds(IDLE_IN_TRANSACTION_TIMEOUT),
            "timezone": "UTC",
            "jit": "off",  # short statements never win back what compiling costs
        }
        arguments = {
            "timeout": self.DB_CONNECT_TIMEOUT,
            "command_timeout": self.DB_STATEMENT_TIMEOUT + COMMAND_TIMEOUT_MARGIN,
        }
        if self.DB_TRANSACTION_POOLER:
            # A prepared statement stays on one server connection, and the next transaction may get another:
            # keep none and name none. Poolers refuse session settings; set those on the role.
            return {
                **arguments,
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": str,  # str() is the empty name
                **from_url,
            }
        return {**arguments, **from_url, "server_settings": session | from_url.get("server_settings", {})}

    @property
    def redis_url(self) -> str | None:
        """REDIS_URL, else the address of the Upstash pair. Holds the password."""
        if self.REDIS_URL is not None:
            return self.REDIS_URL.get_secret_value()
        if self.UPSTASH_REDIS_URL is not None and self.UPSTASH_REDIS_TOKEN is not None:
            return urls.upstash_redis_url(self.UPSTASH_REDIS_URL, self.UPSTASH_REDIS_TOKEN.get_secret_value())
        return None

    @property
    def traces_endpoint(self) -> str | None:
        """Where spans are sent, over OTLP/HTTP. None: tracing is off."""
        if self.OTEL_SDK_DISABLED or self.OTEL_TRACES_EXPORTER == "none":
            return None
        if self.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not None:
            return self.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
        base = self.OTEL_EXPORTER_OTLP_ENDPOINT
        return None if base is None else f"{base}/v1/traces"

    @property
    def issuer(self) -> str:
        """What `iss` has to be in a token, letter by letter."""
        match self.AUTH_PROVIDER:
            case AuthProvider.SUPABASE:
                return f"{self.SUPABASE_URL}/auth/v1"
            case AuthProvider.CLERK:
                return str(self.CLERK_ISSUER)
            case AuthProvider.CUSTOM:
                return str(self.OIDC_ISSUER)
            case AuthProvider.LOCAL:
                return LOCAL_ISSUER

    @property
    def jwks_url(self) -> str | None:
        """Where the keys are published. None: nowhere (local), or where discovery says (custom)."""
        match self.AUTH_PROVIDER:
            case AuthProvider.SUPABASE | AuthProvider.CLERK:
                return f"{self.issuer}/.well-known/jwks.json"
            case AuthProvider.CUSTOM:
                return self.OIDC_JWKS_URL
            case AuthProvider.LOCAL:
                return None

    @property
    def jwt_algorithms(self) -> tuple[str, ...]:
        """The algorithms to accept, of one family: a public key must never pass for an HMAC secret."""
        match self.AUTH_PROVIDER:
            case AuthProvider.SUPABASE:
                return ("HS256",) if self.SUPABASE_JWT_SECRET else ("ES256",)
            case AuthProvider.CLERK:
                return ("RS256",)
            case AuthProvider.CUSTOM:
                return self.OIDC_ALGORITHMS
            case AuthProvider.LOCAL:
                return ("HS256",)


class _Refused(Exception):
    """Carries problems through Pydantic to `Settings`, no further: the frames it passes hold raw values."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.problems = problems


def _postgres(url: SecretStr) -> dsn.PostgresURL | None:
    plain = url.get_secret_value()
    return None if plain.startswith("sqlite") else dsn.PostgresURL.parse(plain)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _describe(error: PydanticError, known: Iterable[str]) -> Iterator[tuple[str, str]]:
    for detail in error.errors(include_url=False, include_input=False):
        name = str(detail["loc"][0])
        if detail["type"] == "extra_forbidden":
            yield name, env_file.unknown(name, known)
        else:
            message = detail["msg"].removeprefix("Value error, ").partition(", unable")[0]
            yield name, re.sub("^(Input should be|String should have) ", "expected ", message)


def _broken_rules(settings: PlatformSettings) -> Iterator[tuple[str, str]]:
    """What no setting can know by itself: what goes together, and what a deployment refuses."""
    if settings.ENVIRONMENT.deployed:
        yield from _unfit_for_deployment(settings)

    required = {
        AuthProvider.SUPABASE: ("SUPABASE_URL",),
        AuthProvider.CLERK: ("CLERK_ISSUER", "CLERK_AUTHORIZED_PARTIES"),
        AuthProvider.CUSTOM: ("OIDC_ISSUER", "OIDC_AUDIENCE"),
        AuthProvider.LOCAL: (),
    }
    for name in required[settings.AUTH_PROVIDER]:
        if not getattr(settings, name):
            yield name, f"expected a value, because AUTH_PROVIDER is {settings.AUTH_PROVIDER}"

    for name in ("SUPABASE_URL", "CLERK_ISSUER", "OIDC_ISSUER", "OIDC_JWKS_URL", "UPSTASH_REDIS_URL"):
        url = getattr(settings, name) or "https://"
        if not url.startswith("https://") and (settings.ENVIRONMENT.deployed or not urls.is_loopback(url)):
            yield name, "expected https:// (http:// only to this machine, with ENVIRONMENT local or test)"

    if settings.traces_endpoint is not None:
        own = settings.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
        if (own or settings.OTEL_EXPORTER_OTLP_PROTOCOL) != "http/protobuf":
            name = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL" if own else "OTEL_EXPORTER_OTLP_PROTOCOL"
            yield name, "expected http/protobuf, the only one that is spoken here"
        if settings.OTEL_BSP_MAX_EXPORT_BATCH_SIZE > settings.OTEL_BSP_MAX_QUEUE_SIZE:
            yield "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "expected no more than OTEL_BSP_MAX_QUEUE_SIZE"

    pair = ("UPSTASH_REDIS_URL", "UPSTASH_REDIS_TOKEN")
    missing = [name for name in pair if not getattr(settings, name)]
    if len(missing) == 1:
        yield missing[0], f"expected a value: {pair[0]} and {pair[1]} go together"


def _unfit_for_deployment(settings: PlatformSettings) -> Iterator[tuple[str, str]]:
    # Staging may look at a failure with DEBUG; all else is as strict as production, or it would prove little.
    if settings.DEBUG and settings.ENVIRONMENT is Environment.PRODUCTION:
        yield "DEBUG", "expected false in production"
    secret, length = settings.SECRET_KEY.get_secret_value(), types.MIN_SECRET_LENGTH
    if secret == DEVELOPMENT_SECRET_KEY or len(secret) < length:
        yield (
            "SECRET_KEY",
            f"expected a secret of your own of {length} characters or more (openssl rand -hex 32)",
        )
    if "DATABASE_URL" not in settings.model_fields_set or _postgres(settings.DATABASE_URL) is None:
        yield "DATABASE_URL", "expected postgresql://user:password@host:port/database"
    if "*" in settings.BACKEND_CORS_ORIGINS:
        yield "BACKEND_CORS_ORIGINS", "expected origins by name, not *: they may send credentials"
    if settings.AUTH_PROVIDER is AuthProvider.LOCAL:
        yield "AUTH_PROVIDER", "expected supabase, clerk or custom: local is for ENVIRONMENT local and test"
    if "redis" in settings.READINESS_REQUIRED and settings.redis_url is None:
        yield "REDIS_URL", "expected a value, because READINESS_REQUIRED names redis"
