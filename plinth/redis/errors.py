"""What an error of Redis means: a sentence for operators, and whether another server may do better."""

import re
from collections.abc import Iterator

from redis import exceptions

from plinth.network_errors import network_reason

__all__ = ["is_wrong_server", "redis_reason", "refuses_to_serve"]

_CLUSTER = "Redis is a node of a cluster, which has other nodes for other keys: Redis Cluster is not supported"
# By the error's first word. These concern the server that was asked; after a failover another one does better.
_WRONG_SERVER = {
    "READONLY": "Redis is a read-only replica",
    "MASTERDOWN": "Redis is a replica without its primary",
    "LOADING": "Redis is still reading its data",
    "NOREPLICAS": "Redis refuses writes: it has too few replicas",
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
    "CLUSTERDOWN": "Redis is a node of a cluster that is down: Redis Cluster is not supported",
}
_UNABLE = {
    "OOM": "Redis refuses writes: its memory is full (maxmemory)",
    "MISCONF": "Redis refuses writes: it cannot save them to its disk",
}
_REFUSED = {
    "NOAUTH": "Redis asks for a password",
    "WRONGPASS": "Redis refuses the user name or the password",
    "NOPERM": "Redis does not permit its user the commands or the keys of this service (ACL)",
    "DENIED": "Redis refuses other machines: it runs in protected mode",
}
_REASONS = _WRONG_SERVER | _UNABLE | _REFUSED
# Of these redis-py cuts the word off. Before version 6 it keeps it nowhere else.
_CUT_OFF: dict[type[BaseException], str] = {
    exceptions.ReadOnlyError: "READONLY",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.NoPermissionError: "NOPERM",
}
# Redis before version 7 puts the error of a command in a script behind its own.
_WORD = re.compile(rf"(?:^|: -)({'|'.join(_REASONS)})\b")
# Errors that begin with ERR, and redis-py's own.
_TEXTS = {
    "ACL failure in script": _REFUSED["NOPERM"],
    "Authentication required": _REFUSED["NOAUTH"],
    "DB index is out of range": "Redis has no database of this number",
    "max number of clients": "Redis has no connection left (maxclients)",
    "No connection available": "no connection of the pool was free in time",
    "closed by server": "Redis does not answer: it closed the connection",
    "No master found": "The Sentinels are away, or name no primary: they know no service of this name, or it is down",
}


def redis_reason(error: BaseException) -> str:
    """Why Redis did not do what was asked, in a sentence without a name, an address or a value."""
    if (word := _word(error)) is not None:
        return _REASONS[word]
    for cause in _causes(error):
        text = str(cause)
        if (known := next((said for part, said in _TEXTS.items() if part in text), None)) is not None:
            return known
        if isinstance(cause, exceptions.AuthenticationError):
            return _REASONS["WRONGPASS"]
        network_error = TimeoutError() if isinstance(cause, exceptions.TimeoutError) else cause
        if (why := network_reason(network_error)) is not None:
            return f"Redis does not answer: {why}"
    return f"Redis does not answer as it should ({type(error).__name__})"


def is_wrong_server(error: BaseException) -> bool:
    """Whether the connection leads to a server that cannot serve, as after a failover."""
    return _word(error) in _WRONG_SERVER


def refuses_to_serve(error: BaseException) -> bool:
    """Whether the error is of the server's state rather than of the command."""
    return _word(error) in _WRONG_SERVER | _UNABLE


def _word(error: BaseException) -> str | None:
    for cause in _causes(error):
        code = getattr(cause, "status_code", None) or _CUT_OFF.get(type(cause))
        if code in _REASONS:
            return str(code)
        if isinstance(cause, exceptions.RedisError) and (found := _WORD.search(str(cause))):
            return found[1]
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and, of redis-py's own for a connection that was not opened, what it was raised for."""
    yield error
    if isinstance(error, exceptions.ConnectionError) and (cause := error.__cause__ or error.__context__) is not None:
        yield cause
