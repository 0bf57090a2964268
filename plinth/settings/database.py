"""The settings of the database: its address, that of a replica, the pool, the time limits."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from plinth.settings import types
from plinth.settings.dsn import PostgresURL
from plinth.settings.general import GeneralSettings
from plinth.settings.libpq import check_parameter
from plinth.settings.loading import SettingsError
from plinth.settings.secret_strength import is_example

__all__ = ["DatabaseSettings", "postgres_url"]

# Seconds after DB_STATEMENT_TIMEOUT, at which the server cancels a statement, until the client stops waiting for it.
COMMAND_TIMEOUT_MARGIN = 0.2
# Seconds after which the server ends a transaction without activity, and frees its locks.
IDLE_IN_TRANSACTION_TIMEOUT = 60
# The variables that asyncpg reads for what the URL leaves out, of those that have a form.
_READ_BY_ASYNCPG = {
    "PGSSLMODE": "sslmode",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGGSSLIB": "gsslib",
}


class DatabaseSettings(GeneralSettings):
    """How to reach the database, and how long to wait for it."""

    DATABASE_URL: types.DatabaseUrl = SecretStr("postgresql://plinth:plinth@localhost:5432/plinth")
    DATABASE_REPLICA_URL: types.DatabaseUrl | None = None
    DB_POOL_SIZE: int = Field(10, ge=1)
    DB_MAX_OVERFLOW: int = Field(0, ge=0)
    DB_POOL_TIMEOUT: types.Seconds = 0.7
    DB_CONNECT_TIMEOUT: types.Seconds = 0.8
    DB_STATEMENT_TIMEOUT: types.Seconds = 1.3
    DB_USE_NULL_POOL: bool = False
    DB_TRANSACTION_POOLER: bool = False
    DB_REPLICA_MAX_LAG: types.Seconds = 5.0

    @field_validator("DB_TRANSACTION_POOLER")
    @classmethod
    def _detect_pooler(cls, value: bool, info: ValidationInfo) -> bool:
        address = postgres_url(info.data["DATABASE_URL"]) if "DATABASE_URL" in info.data else None
        return value or (address is not None and address.transaction_pooler)

    @property
    def of_replica(self) -> Self | None:
        """The same settings with the replica as their database, or None where there is no replica."""
        if self.DATABASE_REPLICA_URL is None:
            return None
        address = postgres_url(self.DATABASE_REPLICA_URL)
        pooler = self.DB_TRANSACTION_POOLER or (address is not None and address.transaction_pooler)
        return self.model_copy(update={"DATABASE_URL": self.DATABASE_REPLICA_URL, "DB_TRANSACTION_POOLER": pooler})

    @property
    def async_database_url(self) -> str:
        """The URL for `create_async_engine`, to be used with `database_connect_args`. Holds the password."""
        address = postgres_url(self.DATABASE_URL)
        return address.for_asyncpg() if address else self.DATABASE_URL.get_secret_value()

    @property
    def database_connect_args(self) -> dict[str, Any]:
        """The arguments for asyncpg besides the URL: time limits, TLS, session settings, the pooler mode.

        Raises:
            SettingsError: a certificate cannot be loaded.
        """
        address = postgres_url(self.DATABASE_URL)
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
            "jit": "off",  # compiling costs more than it saves on short statements
        }
        arguments = {
            "timeout": self.DB_CONNECT_TIMEOUT,
            "command_timeout": self.DB_STATEMENT_TIMEOUT + COMMAND_TIMEOUT_MARGIN,
        }
        if self.DB_TRANSACTION_POOLER:
            # A prepared statement belongs to one server connection, and the next transaction may get another one:
            # cache none and name none. Poolers refuse session settings; set those on the role.
            return {
                **arguments,
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": str,  # str() is the empty name
                **from_url,
            }
        return {**arguments, **from_url, "server_settings": session | from_url.get("server_settings", {})}

    @classmethod
    def wrong_variables(cls, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        yield from super().wrong_variables(environment)
        for name, parameter in _READ_BY_ASYNCPG.items():
            if environment.get(name):
                try:
                    check_parameter(parameter, environment[name])
                except ValueError as error:
                    yield name, str(error)

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        if self.DATABASE_REPLICA_URL is None:
            return
        address = postgres_url(self.DATABASE_REPLICA_URL)
        if address is None or postgres_url(self.DATABASE_URL) is None:
            yield "DATABASE_REPLICA_URL", "expected a standby of the PostgreSQL server in DATABASE_URL, and no SQLite"
            return
        try:
            address.connect_arguments()
        except ValueError as error:
            yield "DATABASE_REPLICA_URL", str(error)

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        address = postgres_url(self.DATABASE_URL)
        if "DATABASE_URL" not in self.model_fields_set or address is None:
            yield "DATABASE_URL", "expected postgresql://user:password@host:port/database"
        else:
            yield from _unfit("DATABASE_URL", address)
        if self.DATABASE_REPLICA_URL is not None and (replica := postgres_url(self.DATABASE_REPLICA_URL)) is not None:
            yield from _unfit("DATABASE_REPLICA_URL", replica)


def postgres_url(url: SecretStr) -> PostgresURL | None:
    """Parse the URL of a PostgreSQL database. Return None for one of SQLite."""
    plain = url.get_secret_value()
    return None if plain.startswith("sqlite") else PostgresURL.parse(plain)


def _unfit(name: str, address: PostgresURL) -> Iterator[tuple[str, str]]:
    problems = []
    if not address.encryption_is_stated:
        # Not from PGSSLMODE: migration, backup and autoscaler have the URL alone.
        problems.append("expected sslmode=verify-full, require, … in the URL, or sslmode=disable for plain text")
    if address.password is not None and is_example(address.password, address.user):
        problems.append("expected a password of its own, not one that is printed as an example")
    if problems:
        yield name, "; ".join(problems)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
