"""Results as JSON, checked against the type of the function that gave them."""

import typing
from collections.abc import Callable
from functools import lru_cache
from types import NoneType
from typing import Any, Never, NoReturn

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import PydanticSerializationError, ValidationError, from_json, to_json

from plinth.jobs.payload import holds_nul

__all__ = ["MAX_RESULT", "adapter_of", "dump", "job_adapter", "load"]

MAX_RESULT = 65_536  # bytes of JSON


def dump(what: str, adapter: TypeAdapter[Any], value: Any, *, limit: int = MAX_RESULT) -> str:
    """Return the value as JSON. `what` names it in errors.

    Raises:
        TypeError: it is no JSON of the adapter's type.
        ValueError: it has more than `limit` bytes, or holds a NUL, infinity or NaN.
    """
    try:
        text = adapter.dump_json(value, warnings="error").decode()
        load(adapter, text)
    except (PydanticSerializationError, ValidationError) as error:
        raise TypeError(f"{what}, a {type(value).__name__}, cannot be kept as JSON of its type.") from error
    if len(text.encode()) > limit:
        raise ValueError(f"{what} has more than {limit} bytes: keep it elsewhere.")
    if holds_nul(text):
        raise ValueError(f"{what} holds a NUL, which PostgreSQL cannot store.")
    if "null" in text and not _is_finite(adapter, value):
        raise ValueError(f"{what} holds infinity or NaN, which JSON has not.")
    return text


def load(adapter: TypeAdapter[Any], text: str) -> Any:
    """Return the value that `dump` was given.

    Raises:
        ValidationError: the text does not fit the adapter's type.
    """
    # Pydantic writes the names of fields, and by itself reads their aliases alone.
    return adapter.validate_json(text, by_name=True, by_alias=True)


def _is_finite(adapter: TypeAdapter[Any], value: Any) -> bool:
    """Whether there is neither infinity nor NaN in a value, of which Pydantic makes null."""
    plain = adapter.dump_python(value, warnings=False)
    try:
        from_json(to_json(plain, inf_nan_mode="constants", serialize_unknown=True), allow_inf_nan=False)
    except ValueError:
        return False
    return True


def adapter_of(hint: Any) -> TypeAdapter[Any]:
    """Return what dumps and checks values of a type; any value, if Pydantic does not know the type."""
    try:
        return _cached_adapter(hint)
    except TypeError:  # not hashable
        return TypeAdapter(hint)


def job_adapter(function: Callable[..., Any]) -> TypeAdapter[Any] | None:
    """Return what dumps and checks the results of a job; None: by its annotation, or without one, it has none.

    Raises:
        TypeError: Pydantic cannot make JSON of its return type.
    """
    hint = typing.get_type_hints(function).get("return", NoneType)
    if hint in (NoneType, Never, NoReturn):
        return None
    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        raise TypeError(f"{function!r}: Pydantic cannot make JSON of the return type {hint!r}") from None


@lru_cache(maxsize=256)
def _cached_adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return TypeAdapter(Any)
