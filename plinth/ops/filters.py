"""What narrows the list of jobs: read from an address or a form, and written into links."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import ImmutableMultiDict

from plinth.jobs import State
from plinth.jobs.admin.bulk import Selection
from plinth.times import read_moment

__all__ = ["Filters", "ids_in", "read_filters", "read_id", "read_number", "read_text", "read_time"]

MAX_TEXT = 255  # characters; no name is longer
MAX_ERROR = 1002  # the longest error, in quotes
FIELDS = ("kind", "queue", "owner", "batch", "since", "until", "error")


@dataclass(frozen=True)
class Filters:
    """The filters as they were typed, what they select, and by field what cannot be read."""

    typed: dict[str, str]
    selection: Selection
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The names and values for a form or an address."""
        states = [("state", state.value) for state in self.selection.states]
        return [*states, *((name, self.typed[name]) for name in FIELDS if self.typed[name])]

    def query(self, **more: object) -> str:
        """The query of an address with these filters, and with what is given here and is not None."""
        given = [(name, str(value)) for name, value in more.items() if value is not None]
        pairs = [*self.pairs, *given]
        return f"?{urlencode(pairs)}" if pairs else ""


def read_filters(given: ImmutableMultiDict[str, Any], *, now: datetime | None = None) -> Filters:
    """Read filters; those that are empty are none. Ages are those at `now`."""
    typed = {name: str(given.get(name, "")) for name in FIELDS}
    # An owner may begin or end with a blank: without it, it would be another one.
    typed = {name: text if name == "owner" and text.strip() else text.strip(" ") for name, text in typed.items()}
    problems: dict[str, str] = {}
    states = []
    for name in given.getlist("state"):
        if name in set(State):
            states.append(State(name))
        elif name:
            problems["state"] = f"There is no state {str(name)[:40]}."
    readers: dict[str, Callable[[str], object]] = {
        "batch": read_id,
        "since": partial(read_time, now=now),
        "until": partial(read_time, now=now),
        "error": partial(read_text, most=MAX_ERROR),
    }
    read: dict[str, Any] = {}
    for name, text in typed.items():
        try:
            read[name] = readers.get(name, read_text)(text) if text else None
        except ValueError as error:
            problems[name] = str(error)
            read[name] = None
    if read["since"] and read["until"] and read["since"] >= read["until"]:
        problems["until"] = "Until has to be after since."
    return Filters(typed, Selection(states=tuple(states), **read), problems)


def read_text(text: str, *, most: int = MAX_TEXT) -> str:
    """A text that PostgreSQL can compare with. Raises ValueError."""
    if len(text) > most:
        raise ValueError(f"Up to {most} characters.")
    if "\0" in text:
        raise ValueError("No job has such a character.")
    return text


def read_id(text: str) -> UUID:
    """An id. Raises ValueError."""
    try:
        return UUID(text)
    except ValueError:
        raise ValueError("Expected an id, such as 01890a5d-ac96-774b-bcce-b302099a8057.") from None


def read_time(text: str, *, now: datetime | None = None) -> datetime:
    """A time or an age at `now`. Raises ValueError."""
    try:
        return read_moment(text, now=now)
    except ValueError as error:
        message = str(error)
        raise ValueError(f"{message[0].upper()}{message[1:]}.") from None


def read_number(text: str) -> int | None:
    """A number of up to six digits; None for any other text."""
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def ids_in(given: ImmutableMultiDict[str, Any]) -> list[UUID]:
    """The ids of the jobs that were ticked. Raises ValueError."""
    return [read_id(str(text)) for text in given.getlist("id")]
