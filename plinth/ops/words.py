"""How the pages say things: ages, numbers, JSON."""

import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from plinth.telemetry.redaction import redact, redact_text

__all__ = ["MAX_JSON", "age", "count", "jobs", "masked_json", "masked_text", "span"]

T = TypeVar("T")

MAX_JSON = 20_000  # characters of a payload or a result that a page shows
MAX_DEPTH = 50
_MARGIN = 2000  # characters beyond them: what is cut is not shown
_EACH = 4  # characters that each value takes at least, with what stands around it


def age(seconds: float) -> str:
    """A time span in its largest two units: `42 s`, `3 min 5 s`, `2 d 4 h`."""
    left = round(seconds)
    if left < 60:
        return f"{left} s"
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        parts.append((number, unit))
    first = next(place for place, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def span(length: timedelta) -> str:
    """The same of a timedelta; below ten seconds with its milliseconds."""
    seconds = length.total_seconds()
    return f"{seconds:.3f} s" if seconds < 10 else age(seconds)


def jobs(number: int) -> str:
    """`1 job`, `1,234 jobs`."""
    return "1 job" if number == 1 else f"{number:,} jobs"


def count(number: int, *, at_least: bool) -> str:
    """`1,234`, or `10,000+` where counting has stopped."""
    return f"{number:,}+" if at_least else f"{number:,}"


def masked_json(value: Any) -> str:
    """The beginning of a value as indented JSON, with its secrets masked."""
    # Only what is shown is masked: all of a megabyte takes a second, in which the process answers no other request.
    shown = {"value": _Beginning(MAX_JSON + _MARGIN).of(value)}
    redact(shown)
    text = json.dumps(shown["value"], indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_JSON else f"{text[:MAX_JSON]}\n… and more"


class _Beginning:
    """Copies values until so many characters are reached; the rest is left out."""

    def __init__(self, room: int) -> None:
        self.room = room

    def of(self, value: Any, depth: int = 0) -> Any:
        self.room -= _EACH
        if isinstance(value, str):
            return self._text(value)
        if not isinstance(value, dict | list):
            return value
        if depth == MAX_DEPTH:
            return "…"
        if isinstance(value, list):
            return [self.of(item, depth + 1) for item in self._while_there_is_room(value)]
        return {self._text(name): self.of(item, depth + 1) for name, item in self._while_there_is_room(value.items())}

    def _while_there_is_room(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self.room <= 0:
                return
            yield item

    def _text(self, text: str) -> str:
        room, self.room = max(self.room, 0), self.room - len(text)
        # At a blank: a part of a secret might not be told from other text.
        return text if len(text) <= room else f"{text[:room].rpartition(' ')[0]} …"


def masked_text(text: str) -> str:
    """A text with what looks like a secret masked."""
    return redact_text(text)
