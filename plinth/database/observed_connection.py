"""An asyncpg connection that counts its statements and records their spans, without the values in them.

It sees the statements of sessions and of bare connections. asyncpg's query loggers do not see SQLAlchemy's, and cost
ten times as much; SQLAlchemy's events see only its own, and two listeners cost each statement 9 µs. OpenTelemetry's
instrumentations make an object for each call of the nine in ten requests that are not recorded; here those pay for one
look at the current span.
"""

import re
from collections.abc import Awaitable, Coroutine, Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import event
from sqlalchemy.engine import Engine

from plinth.telemetry.metrics import db_operation
from plinth.telemetry.tracing import is_recorded, record_call

__all__ = ["describe", "observe"]

MAX_STATEMENT = 2000  # characters
# BEGIN, COMMIT and the like have a span if they take this long, as when a pooler has no server to give.
BOUNDARY_SECONDS = 0.005

_BOUNDARIES = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"})
_USUAL_BOUNDARIES = frozenset({"BEGIN;", "COMMIT;", "ROLLBACK;"})

_OPERATION = re.compile(r"\s*(\w+)")
# A span is named after the table that is changed, rather than one that is read for it.
_CHANGED = re.compile(
    r'\b(?:INSERT\s+INTO|(?<!FOR\s)(?<!DO\s)UPDATE|DELETE\s+FROM)\s+"?([A-Za-z_][\w.]*)', re.IGNORECASE
)
# Not what a function returns.
_READ = re.compile(r'\b(?:FROM|JOIN)\s+(?:ONLY\s+)?"?([A-Za-z_][\w.]*+)(?!\s*\()', re.IGNORECASE)

# What a literal may be mistaken for, and literals: of numbers, texts in all of PostgreSQL's quotes, cut off or not.
_TOKEN = re.compile(
    r"""
    [Ee]'(?:[^'\\]|\\.|'')*(?:'|\Z) | (?:[BbNnXx]|[Uu]&)?'(?:[^']|'')*(?:'|\Z)
    | (?P<quote>\$(?:[A-Za-z_]\w*)?\$).*?(?:(?P=quote)|\Z) | [0-9][\w.]*
    | (?P<parameter>\$[0-9]+) | (?P<other>"[^"]*(?:"|\Z) | --[^\n]* | /\*.*?(?:\*/|\Z) | [^\W\d][\w$]*)
    """,
    re.DOTALL | re.VERBOSE,
)


def observe(engine: Engine, *, counted: bool) -> None:
    """Record the spans of statements on connections that the engine opens from now on; count them if `counted`.

    Call it before other listeners that open connections. The statements with which SQLAlchemy inspects a new server
    have no spans.
    """
    url = engine.url
    named = {"db.namespace": url.database, "server.address": url.host, "server.port": url.port}
    server = {"db.system.name": "postgresql", **{name: value for name, value in named.items() if value is not None}}
    connection_class: type[_Connection] = type(
        "Connection", (_Connection,), {"__slots__": (), "counted": counted, "server": server, "ready": False}
    )

    def connect(dialect: Any, record: Any, args: Any, options: dict[str, Any]) -> None:
        options["connection_class"] = connection_class

    def begin(connection: Any, record: Any) -> None:
        connection_class.ready = True  # SQLAlchemy has inspected the server

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", begin, once=True)


class Described(NamedTuple):
    """What a statement's text says of it."""

    name: str
    """Of its span, such as `SELECT job`."""
    operation: str
    collection: str | None
    """The table, unless it reads several and changes none."""
    text: str
    """With `?` for each literal, if it has no parameters: it holds then what others pass as such."""


@lru_cache(maxsize=1024)
def describe(statement: str) -> Described:
    """Describe a statement by its first words."""
    found = _OPERATION.match(statement)
    operation = found[1].upper() if found else "SQL"
    changed = _CHANGED.search(statement)
    read = _READ.findall(statement)
    target = changed[1] if changed else read[0] if read else None
    alone = changed is not None or len(set(read)) == 1
    name = operation if target is None else f"{operation} {target}"
    return Described(name, operation, target if alone else None, _without_literals(statement))


def _without_literals(statement: str) -> str:
    if any(found["parameter"] for found in _TOKEN.finditer(statement)):
        return statement
    return _TOKEN.sub(lambda found: found["other"] or "?", statement)


class _Connection(asyncpg.Connection):
    __slots__ = ()

    counted: bool
    ready: bool
    server: Mapping[str, str | int]

    # These return a coroutine and are no coroutine functions: each level would cost every statement a little.

    def execute(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, str]:
        return _observed(self, query, super().execute(query, *args, **options))

    def executemany(self, command: str, *args: Any, **options: Any) -> Coroutine[Any, Any, None]:
        return _observed(self, command, super().executemany(command, *args, **options))

    def fetch(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        return _observed(self, query, super().fetch(query, *args, **options))

    def fetchrow(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        return _observed(self, query, super().fetchrow(query, *args, **options))

    def fetchval(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        return _observed(self, query, super().fetchval(query, *args, **options))

    async def prepare(self, query: str, **options: Any) -> Any:
        """Prepare a statement, as SQLAlchemy does once on each connection. Failures are observed, and each run."""
        began = perf_counter()
        try:
            return _Statement(self, query, await super().prepare(query, **options))
        except BaseException as error:
            _record(self, query, perf_counter() - began, error)
            raise


class _Statement:
    """A prepared statement whose complete runs are observed; cursors are not."""

    __slots__ = ("_connection", "_fetch", "_query", "_statement", "get_statusmsg")

    def __init__(self, connection: _Connection, query: str, statement: PreparedStatement) -> None:
        self._connection = connection
        self._query = query
        self._statement = statement
        # SQLAlchemy reads both at every run.
        self._fetch = statement.fetch
        self.get_statusmsg = statement.get_statusmsg

    def fetch(self, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        return _observed(self._connection, self._query, self._fetch(*args, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._statement, name)


async def _observed(connection: _Connection, query: str, answer: Awaitable[Any]) -> Any:
    began = perf_counter()
    try:
        result = await answer
    except BaseException as error:
        _record(connection, query, perf_counter() - began, error)
        raise
    _record(connection, query, perf_counter() - began)
    return result


def _record(connection: _Connection, query: str, seconds: float, error: BaseException | None = None) -> None:
    if connection.counted:
        # Cut, because the cache keeps it: a bulk insert has another text for each number of rows.
        db_operation("postgresql", query[:MAX_STATEMENT]).observe(seconds)
    quick = seconds < BOUNDARY_SECONDS and error is None
    # A quick BEGIN or COMMIT has no span: no look at the current one is needed.
    if (quick and query in _USUAL_BOUNDARIES) or not is_recorded() or not connection.ready:
        return
    name, operation, collection, text = describe(query[:MAX_STATEMENT])
    if quick and operation in _BOUNDARIES:
        return
    attributes = {**connection.server, "db.operation.name": operation, "db.query.text": text}
    if collection is not None:
        attributes["db.collection.name"] = collection
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        attributes["db.response.status_code"] = error.sqlstate
    record_call(name, attributes, seconds=seconds, error=error)
