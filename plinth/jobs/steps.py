"""Durable steps: what a run does once, and what a later run of the same job finds done.

A job runs from the top again after a crash, a sleep or a wait. Each step that has ended gives its stored result instead
of running. A step is known by its name in the job.
"""

import asyncio
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import structlog
from pydantic import TypeAdapter
from pydantic_core import ValidationError
from sqlmodel.ext.asyncio.session import AsyncSession

from plinth.jobs.codec import PayloadCodec, decode, encode
from plinth.jobs.outcome import DECISIONS, Suspended, Wait, decided, storable, words_of
from plinth.jobs.results import MAX_RESULT, adapter_of, dump, load
from plinth.jobs.retry import RetryPolicy

__all__ = [
    "EventTimeout",
    "KeptStep",
    "SessionBlock",
    "StepChanged",
    "StepFailed",
    "StepRecorder",
    "Steps",
    "StoredStep",
]

log = structlog.get_logger("plinth.jobs.steps")

MAX_NAME = 200  # characters, before the number of a repeated one
MAX_STEPS = 1000  # of a job: a later run reads them all
MAX_ERROR = 1000  # characters


class StepFailed(Exception):
    """A step has failed for good: in every run of the job, until the job is retried by hand."""


class StepChanged(Exception):
    """What an earlier run kept of a step does not fit what the code makes of it now."""


class EventTimeout(TimeoutError):
    """The event did not come in time: in every run of the job, until the job is retried by hand."""


class StoredStep(NamedTuple):
    """A step as the database has it. `result` is JSON; `over`: its time has come, if it waits for one."""

    name: str
    kind: str
    state: str
    result: str | None
    error: str | None
    over: bool | None


@dataclass(slots=True, eq=False)
class KeptStep:
    """A step that has ended, on its way into the database. `kept` is done once it is there."""

    job_id: UUID
    lease: int
    name: str
    kind: str
    state: str
    result: str | None
    error: str | None
    seconds: float
    kept: asyncio.Future[None] = field(repr=False)


@dataclass(slots=True)
class SessionBlock:
    """The block of a `ctx.session()`. `session` is None once it has ended, which tasks that it began may outlive."""

    session: AsyncSession | None
    _keeping: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def keep(self, recorder: "StepRecorder", step: KeptStep) -> bool:
        """Write a step in the session's transaction; False if the block has ended. Raises LeaseLost as `keep_in`."""
        async with self._keeping:  # of steps that run at the same time: a session does one thing after the other
            if self.session is None:
                return False
            await recorder.keep_in(self.session, step)
            return True

    async def end(self) -> None:
        """Wait for the step that is being written, and write no other in the session."""
        try:
            async with self._keeping:
                pass
        finally:
            self.session = None


class StepRecorder(Protocol):
    """Reads and writes steps: `plinth.jobs.engine.step_recorder.StepRecorder`."""

    async def stored(self, job_id: UUID) -> list[StoredStep]:
        """Read all steps of a job."""

    async def keep(self, step: KeptStep) -> None:
        """Write a step. Raises LeaseLost if another run has taken over."""

    async def keep_in(self, session: AsyncSession, step: KeptStep) -> None:
        """Write a step in the session's transaction. Raises LeaseLost if another run has taken over."""

    async def event(self, name: str) -> str | None:
        """Read the payload of an event, as JSON. None: it has not been emitted."""

    async def time_out(self, job_id: UUID, lease: int, name: str) -> bool:
        """End a wait whose time is over. False: its event came first."""


class Steps:
    """The steps of one run. `earlier`: an earlier run may have left some. `codec`: of the results that are stored."""

    def __init__(
        self, job_id: UUID, lease: int, recorder: StepRecorder, *, earlier: bool, codec: PayloadCodec | None = None
    ) -> None:
        self._job_id = job_id
        self._lease = lease
        self._recorder = recorder
        self._codec = codec
        self._stored: dict[str, StoredStep] | None = None if earlier else {}
        self._reading = asyncio.Lock()
        self._used: dict[str, int] = {}
        self._numbered: set[str] = set()  # the names with their numbers
        self._open: set[str] = set()
        self._loop = asyncio.get_running_loop()

    async def run(
        self,
        name: str,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        retry: RetryPolicy | None,
        block: SessionBlock | None,
        limit: int = MAX_RESULT,
    ) -> Any:
        """Run a step, or return what an earlier run has kept of it. See `JobContext.step`. `limit`: bytes of JSON."""
        if block is not None and block.session is not None and retry is not None:
            raise RuntimeError(f"The step {name!r} is in a transaction, which an error ends: it cannot have retries.")
        numbered = self._begin(name)
        try:
            adapter = _adapter(function)
            stored = await self._find(numbered, "step")
            if stored is not None:
                return _given(stored, adapter)
            began = monotonic()
            try:
                value = await _attempts(numbered, function, arguments, retry)
                result = dump(f"The result of the step {numbered!r}", adapter, value, limit=limit)
            except _Spent as spent:
                error = f"{type(spent.error).__name__}: {words_of(spent.error)}"
                failed = self._ended(numbered, "step", "failed", None, storable(error)[:MAX_ERROR], began)
                await self._recorder.keep(failed)
                raise StepFailed(f"The step {numbered!r} has failed: {failed.error}") from spent.error
            stored_result = result if self._codec is None else encode(self._codec, result, self._context(numbered))
            done = self._ended(numbered, "step", "done", stored_result, None, began)
            if block is None or not await block.keep(self._recorder, done):
                await self._recorder.keep(done)
            return load(adapter, result)
        finally:
            self._open.discard(name)

    async def sleep(self, name: str, *, seconds: float | None, until: datetime | None) -> None:
        """Suspend the job until then; return if that is over. See `JobContext.sleep`."""
        numbered = self._begin(name)
        try:
            stored = await self._find(numbered, "sleep")
            if stored is None or not stored.over:
                raise Suspended(Wait(numbered, "sleep", None, seconds, until))
        finally:
            self._open.discard(name)

    async def wait_for(self, name: str, event: str, *, seconds: float | None, returns: Any) -> Any:
        """Suspend the job until the event has been emitted, and return its payload. See `JobContext.wait_for`."""
        numbered = self._begin(name)
        try:
            stored = await self._find(numbered, "event")
            if stored is None and (payload := await self._recorder.event(event)) is not None:
                await self._recorder.keep(self._ended(numbered, "event", "done", payload, None, monotonic()))
                stored = StoredStep(numbered, "event", "done", payload, None, None)
            if stored is not None and stored.state == "waiting" and stored.over:
                if await self._recorder.time_out(self._job_id, self._lease, numbered):
                    stored = stored._replace(state="timed_out")
                else:
                    stored = next(step for step in await self._recorder.stored(self._job_id) if step.name == numbered)
            if stored is None or stored.state == "waiting":
                raise Suspended(Wait(numbered, "event", event, seconds, None))
            if stored.state == "timed_out":
                raise EventTimeout(f"The event {event!r} did not come in time.")
            return _given(stored, adapter_of(returns))
        finally:
            self._open.discard(name)

    def _begin(self, name: str) -> str:
        """Return the name of a step that begins now: with a number if the name comes again."""
        if not 0 < len(name) <= MAX_NAME or storable(name) != name:
            raise ValueError(f"a step's name has 1 to {MAX_NAME} characters, no NUL and no lone surrogate")
        if name in self._open:
            raise RuntimeError(f"Two steps {name!r} run at the same time: give each a name of its own.")
        if sum(self._used.values()) >= MAX_STEPS:
            raise RuntimeError(f"A job has {MAX_STEPS} steps at most.")
        number = self._used.get(name, 0) + 1
        numbered = name if number == 1 else f"{name}#{number}"
        if numbered in self._numbered:
            raise RuntimeError(f"Two steps are called {numbered!r}, one by its number: give one of them another name.")
        self._open.add(name)
        self._used[name] = number
        self._numbered.add(numbered)
        return numbered

    async def _find(self, name: str, kind: str) -> StoredStep | None:
        async with self._reading:
            if self._stored is None:
                self._stored = {step.name: step for step in await self._recorder.stored(self._job_id)}
        stored = self._stored.get(name)
        if stored is not None and stored.kind != kind:
            raise StepChanged(f"{name!r} was of the kind {stored.kind!r} in an earlier run, and is {kind!r} now.")
        if stored is None or kind != "step" or stored.result is None or self._codec is None:
            return stored  # an event's payload is stored as it was emitted
        try:
            return stored._replace(result=decode(self._codec, stored.result, self._context(name)))
        except ValueError:
            raise StepChanged(f"What {name!r} gave earlier cannot be decrypted.") from None

    def _context(self, name: str) -> str:
        return f"step {self._job_id} {name}"

    def _ended(self, name: str, kind: str, state: str, result: str | None, error: str | None, began: float) -> KeptStep:
        kept = self._loop.create_future()
        return KeptStep(self._job_id, self._lease, name, kind, state, result, error, monotonic() - began, kept)


class _Spent(Exception):
    """The attempts of a step are spent; `error` ended the last."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


async def _attempts(
    name: str, function: Callable[..., Any], arguments: tuple[Any, ...], retry: RetryPolicy | None
) -> Any:
    attempt = 1
    while True:
        try:
            return await _call(function, arguments)
        except Exception as error:
            if retry is None or isinstance(decided(error), DECISIONS):
                raise
            if attempt >= retry.max_attempts:
                raise _Spent(error) from error
            delay = retry.delay(attempt)
            log.warning("a step failed", step=name, attempt=attempt, retry_in=round(delay, 1), error=words_of(error))
        await asyncio.sleep(delay)
        attempt += 1


async def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        # A lambda that returns a coroutine is fine: it is awaited here.
        found = await asyncio.to_thread(_call_plain, function, arguments)
        return await found if inspect.isawaitable(found) else found
    except SystemExit as error:  # in a task of a task group it would end the worker
        raise RuntimeError(f"{function!r} raised SystemExit") from error


def _call_plain(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:  # no future hands it on before Python 3.12: the step would never end
        raise RuntimeError(f"{function!r} raised StopIteration") from error


def _given(stored: StoredStep, adapter: TypeAdapter[Any]) -> Any:
    if stored.state == "failed":
        raise StepFailed(f"The step {stored.name!r} has failed: {stored.error}")
    try:
        return load(adapter, "null" if stored.result is None else stored.result)
    except ValidationError as error:
        where = ", ".join(
            ".".join(map(str, issue["loc"])) or "the whole" for issue in error.errors(include_input=False)
        )
        raise StepChanged(f"What {stored.name!r} gave earlier does not fit its type now: {where}.") from None


def _adapter(function: Callable[..., Any]) -> TypeAdapter[Any]:
    while isinstance(function, partial):
        function = function.func
    try:
        hint = typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError):  # a name that is known to type checkers alone; no function
        hint = Any
    return adapter_of(hint)
