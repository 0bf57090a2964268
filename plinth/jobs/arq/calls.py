"""The payload of a job that calls a function of arq's, and how its arguments are written into it."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from plinth.jobs.arq.values import decoded, encoded

__all__ = ["Call", "Codec", "SerializationError", "milliseconds"]

Serializer = Callable[[dict[str, Any]], bytes]
Deserializer = Callable[[bytes], dict[str, Any]]


class SerializationError(RuntimeError):
    """An argument or a result cannot be kept."""


class Call(BaseModel):
    """A call of a function: what `enqueue_job` was given.

    `packed` holds the arguments instead of `args` and `kwargs` where WorkerSettings has a serializer. `job_id`: the one
    that was chosen. `job_try`: the number of the first try. `due`: the time that it was deferred to.
    """

    model_config = ConfigDict(extra="forbid")

    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    packed: str | None = None
    job_id: str | None = None
    job_try: int | None = None
    enqueue_time: datetime | None = None
    due: datetime | None = None
    expires: datetime | None = None


class Codec(NamedTuple):
    """How arguments and results are written: as JSON, or by the serializer of WorkerSettings."""

    serializer: Serializer | None = None
    deserializer: Deserializer | None = None

    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any], **details: Any) -> Call:
        """Make the payload of a call of the function `name`.

        Raises:
            SerializationError: an argument does not survive; says which.
        """
        if self.serializer is not None:
            now, tried = details.get("enqueue_time") or datetime.now(UTC), details.get("job_try")
            data = {"t": tried, "f": name, "a": tuple(args), "k": kwargs, "et": milliseconds(now)}  # as arq has it
            try:
                return Call(packed=b64encode(self.serializer(data)).decode(), **details)
            except Exception as error:
                raise SerializationError(f"the arguments of {name!r} cannot be serialized") from error
        positional = [_argument(name, f"argument {number}", value) for number, value in enumerate(args, 1)]
        named = {key: _argument(name, f"{key!r}", value) for key, value in kwargs.items()}
        return Call(args=positional, kwargs=named, **details)

    def arguments(self, call: Call) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the arguments of a call."""
        if call.packed is None:
            return [decoded(item) for item in call.args], {key: decoded(item) for key, item in call.kwargs.items()}
        if self.deserializer is None:
            raise SerializationError("the arguments were serialized, and WorkerSettings has no job_deserializer")
        data = self.deserializer(b64decode(call.packed))
        return data["a"], data["k"]

    def result(self, value: Any) -> Any:
        """Return a result as JSON. Raises SerializationError."""
        try:
            if self.serializer is None:
                return encoded(value)
            return None if value is None else {"$packed": b64encode(self.serializer({"r": value})).decode()}
        except Exception as error:
            raise SerializationError("the result cannot be serialized") from error

    def read_result(self, kept: Any) -> Any:
        """Return the result that was kept."""
        if self.deserializer is not None and isinstance(kept, dict) and "$packed" in kept:
            return self.deserializer(b64decode(kept["$packed"]))["r"]
        return decoded(kept)


def _argument(name: str, where: str, value: Any) -> Any:
    try:
        return encoded(value)
    except (TypeError, RecursionError) as error:
        what = error if isinstance(error, TypeError) else "a value that holds itself"
        raise SerializationError(
            f"{name!r}: {where} has {what}, which does not survive JSON. Give it in another form, or give "
            "WorkerSettings a job_serializer and a job_deserializer."
        ) from None


def milliseconds(time: datetime) -> int:
    """Return a time as arq has it."""
    return round(time.timestamp() * 1000)
