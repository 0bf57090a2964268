"""Arguments and results of arq's functions as JSON, which comes back as it was.

arq pickles them. What has no form in JSON stands as an object of one member, whose name is `$` and its type.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from plinth.jobs.outcome import storable

__all__ = ["decoded", "encoded"]

# By the exact type: a subclass would come back as its base.
_TEXTS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    datetime: ("$datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("$date", date.isoformat, date.fromisoformat),
    time: ("$time", time.isoformat, time.fromisoformat),
    timedelta: ("$timedelta", lambda value: [value.days, value.seconds, value.microseconds], lambda it: timedelta(*it)),
    UUID: ("$uuid", str, UUID),
    Decimal: ("$decimal", str, Decimal),
    bytes: ("$bytes", lambda value: b64encode(value).decode(), b64decode),
}
_COLLECTIONS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_READ: dict[str, Callable[[Any], Any]] = {
    **{name: read for name, _, read in _TEXTS.values()},
    "$tuple": lambda items: tuple(map(decoded, items)),
    "$set": lambda items: set(map(decoded, items)),
    "$frozenset": lambda items: frozenset(map(decoded, items)),
    "$float": float,
    "$dict": lambda pairs: {decoded(key): decoded(value) for key, value in pairs},
}


def encoded(value: Any) -> Any:
    """Return the value as JSON has it.

    Raises:
        TypeError: it holds something of a type that does not survive JSON.
    """
    kind = type(value)
    if value is None or kind in (bool, int):
        return value
    if kind is str and storable(value) == value:
        return value
    if kind is float:
        # The database keeps numbers as decimals: 1e22 would come back as an int, -0.0 without its sign.
        text = repr(value)
        return value if text.lstrip("-").replace(".", "", 1).isdigit() and text != "-0.0" else {"$float": text}
    if kind is list:
        return [encoded(item) for item in value]
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {encoded(key): encoded(item) for key, item in value.items()}
        return {"$dict": [[encoded(key), encoded(item)] for key, item in value.items()]}
    if kind in _TEXTS:
        name, write, _ = _TEXTS[kind]
        return {name: write(value)}
    if kind in _COLLECTIONS:
        return {_COLLECTIONS[kind]: [encoded(item) for item in value]}
    raise TypeError("a string with a NUL or a lone surrogate" if kind is str else f"a {kind.__qualname__}")


def decoded(value: Any) -> Any:
    """Return what `encoded` was given.

    Raises:
        ValueError: it has not made that.
    """
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, content),) = value.items()
        if name.startswith("$"):
            if name not in _READ:
                raise ValueError(f"{name} is no type of a value")
            return _READ[name](content)
    return {key: decoded(item) for key, item in value.items()}
