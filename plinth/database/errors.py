"""What an error of the database means: whether it cannot serve now, and a sentence for operators.

The sentences are this module's own. The server's and the driver's messages quote names, addresses and values.
"""

import re

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from plinth.errors import ServiceUnavailableError
from plinth.network_errors import network_reason
from plinth.telemetry.metrics import db_error

__all__ = [
    "READ_ONLY_STATE",
    "TIMED_OUT_STATE",
    "DatabaseUnavailableError",
    "TransactionConflictError",
    "count_failure",
    "database_reason",
    "is_conflict",
    "is_of_the_server",
    "known_reason",
    "sqlstate",
    "translated",
]

# The server has become a standby or refuses to write: after a failover another one is the primary.
READ_ONLY_STATE = "25006"
# SQLSTATE classes and codes that concern the server and not the statement: connection trouble, resources
# exhausted, shutting down or starting up, a statement or lock that took too long, a primary turned read-only.
_UNAVAILABLE_STATES = ("08", "53", "57P", READ_ONLY_STATE)
# The server has cancelled the statement, mostly because it took longer than statement_timeout.
TIMED_OUT_STATE = "57014"
_TIMEOUT_STATES = (TIMED_OUT_STATE, "55P03")
_CONSTRAINT_CLASS = "23"
# Two transactions were in each other's way, and this one was rolled back: serialization failure, deadlock.
_CONFLICT_STATES = ("40001", "40P01")

_NO_DATABASE = "The server has no such database"
_NO_ACCESS = "The database refuses the user or the password"
_NO_ROOM = "The database has no connection left: max_connections, or the limit of the role or the pooler, is reached"
_STATES = {
    "3D000": _NO_DATABASE,
    "28000": _NO_ACCESS,
    "28P01": _NO_ACCESS,
    "42501": "The role lacks a right in the database: GRANT it, or let the owner run this",
    "53100": "The database's disk is full",
    "53200": "The database is out of memory",
    "53300": _NO_ROOM,
    "55000": "The database accepts no connections (ALLOW_CONNECTIONS)",
    "57P01": "The database server is shutting down",
    "57P02": "The database server has crashed and restarts",
    "57P03": "The database server is starting up or shutting down, or is a standby that cannot be read yet",
    "57P04": "The database has been dropped",
    READ_ONLY_STATE: "The database is read-only: it is a standby, or refuses to write",
    "40001": "The transaction clashed with another one",
    "40P01": "The transaction clashed with another one",
    TIMED_OUT_STATE: "The statement took too long",
    "55P03": "A lock was not to be had in time",
}
# Of 28000 the server tells in which of its functions it refused, in every language.
_FUNCTIONS = {
    "ClientAuthentication": (
        "The database's pg_hba.conf has no line for this user, database, address and sslmode, or one that rejects them"
    ),
    "InitializeSessionUserId": "The database has no such role, or the role may not log in",
}
# Poolers answer 08P01 or XX000 to everything, and the right on a schema has the SQLSTATE of every other right.
_TEXTS = {
    r"unsupported startup parameter": (
        "The pooler refuses session settings: set DB_TRANSACTION_POOLER=true, or, of a pooler in session mode, "
        "PgBouncer's ignore_startup_parameters"
    ),
    r"no such database": _NO_DATABASE,
    r"no such user|auth(entication)? failed": _NO_ACCESS,
    r"no more connections|max clients|max_client_conn|too many (connections|clients)": _NO_ROOM,
    r"tenant or user not found": "The pooler knows no such user or project",
    r"query_wait_timeout": "The pooler had no connection of the database to give in time (query_wait_timeout)",
    r"server login has been failing|server_login_retry|cannot connect to server": (
        "The pooler does not reach the database, or is refused by it"
    ),
    r"ssl required": "The pooler requires TLS: set sslmode",
    r"permission denied for schema": (
        "The role may not create tables in the schema: GRANT CREATE ON SCHEMA to it, usually public"
    ),
    r"rejected ssl upgrade": "The database offers no TLS, and sslmode asks for it",
    r"password": "The database asks for a password",
}


class DatabaseUnavailableError(ServiceUnavailableError):
    """The database is away, frozen, overloaded or read-only, or refuses the connection."""

    code = "database_unavailable"


class TransactionConflictError(ServiceUnavailableError):
    """Another transaction was in the way, and PostgreSQL rolled this one back: the same work may succeed now."""

    code = "transaction_conflict"


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of an error of asyncpg or SQLAlchemy, or nothing."""
    return str(getattr(driver_error(error), "sqlstate", None) or "")


def driver_error(error: BaseException) -> BaseException:
    """What asyncpg or the network raised, behind what SQLAlchemy or this module made of it."""
    while isinstance(error, DBAPIError | ServiceUnavailableError) or error.__class__.__module__.startswith(
        "sqlalchemy"
    ):
        cause = getattr(error, "orig", None) or error.__cause__
        if cause is None:
            break
        error = cause
    return error


def is_of_the_server(error: BaseException) -> bool:
    """Whether the error concerns the server and not the statement: another connection may do better."""
    return sqlstate(error).startswith(_UNAVAILABLE_STATES)


def is_conflict(error: BaseException) -> bool:
    """Whether the transaction was rolled back for another one, and may be tried again."""
    return sqlstate(error) in _CONFLICT_STATES


def translated(error: Exception) -> Exception:
    """Count an error of asyncpg or SQLAlchemy; return the error to raise for it, which may be itself."""
    if isinstance(error, ServiceUnavailableError):
        return error
    if isinstance(error, PoolTimeoutError):
        db_error("postgresql", "timeout")
        return DatabaseUnavailableError(reason=database_reason(error))
    if count_failure(error):
        return DatabaseUnavailableError(reason=database_reason(error))
    if is_conflict(error):
        return TransactionConflictError(reason=database_reason(error))
    return error


def count_failure(error: BaseException) -> bool:
    """Count an error of asyncpg or SQLAlchemy; returns whether it means that the database cannot serve now."""
    cause = driver_error(error)
    state = sqlstate(error)
    if isinstance(cause, TimeoutError) or state in _TIMEOUT_STATES:
        kind = "timeout"
    elif (
        isinstance(cause, OSError | asyncpg.PostgresConnectionError)
        or getattr(error, "connection_invalidated", False)
        or is_of_the_server(error)
        # asyncpg raises "connection is closed" with the class that it also uses for programming errors.
        or (isinstance(cause, asyncpg.InterfaceError) and "clos" in str(cause))
        # The server has said that it ends this connection, and has not closed it yet.
        or (isinstance(cause, asyncpg.InternalClientError) and not isinstance(cause, asyncpg.OutdatedSchemaCacheError))
    ):
        kind = "unavailable"
    else:
        if isinstance(error, DBAPIError | asyncpg.PostgresError) and not state.startswith(_CONSTRAINT_CLASS):
            db_error("postgresql", "other")
        return False
    db_error("postgresql", kind)
    return True


def database_reason(error: BaseException) -> str:
    """Why the database did not do what was asked, in a sentence without a name, an address or a value."""
    if (known := known_reason(error)) is not None:
        return known
    state = sqlstate(error)
    kind = type(driver_error(error)).__name__
    return f"The database does not answer as it should ({kind}{state and f', SQLSTATE {state}'})"


def known_reason(error: BaseException) -> str | None:
    """The same, or None for an error that this module does not know."""
    if isinstance(error, PoolTimeoutError):
        return "No connection of the pool was free in time"
    cause, state = driver_error(error), sqlstate(error)
    if isinstance(cause, ServiceUnavailableError):
        return cause.reason
    function = str(getattr(cause, "server_source_function", "")) if state == "28000" else ""
    said = _FUNCTIONS.get(function) or _of_text(cause, state) or _STATES.get(state)
    if said is not None:
        return said
    if (why := network_reason(cause)) is not None:
        return f"The database does not answer: {why}"
    match cause:
        case asyncpg.TargetServerAttributeNotMatched():
            return "No host of the database is what target_session_attrs asks for"
        case asyncpg.ClientConfigurationError():
            return "asyncpg cannot use DATABASE_URL, or a PG… variable of the environment"
        case asyncpg.PostgresConnectionError() | asyncpg.InternalClientError() | asyncpg.InterfaceError():
            return "The database does not answer: it closed the connection"
    return None


def _of_text(error: BaseException, state: str) -> str | None:
    if not isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
        return None
    if state not in ("", "42501") and not state.startswith(("08", "XX")):
        return None
    text = str(error)
    return next((said for part, said in _TEXTS.items() if re.search(part, text, re.IGNORECASE)), None)
