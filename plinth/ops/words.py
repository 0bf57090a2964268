"""How the pages say things: ages, numbers, JSON."""

import json
from datetime import timedelta
from typing import Any

from plinth.telemetry.redaction import redact, redact_text

__all__ = ["MAX_JSON", "age", "jobs", "masked_json", "masked_text", "span"]

MAX_JSON = 20_000  # characters of a payload or a result that a page shows


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


def masked_json(value: Any) -> str:
    """A value as indented JSON, with its secrets masked, and cut."""
    shown = {"value": value}
    redact(shown)
    text = json.dumps(shown["value"], indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_JSON else f"{text[:MAX_JSON]}\n… and {len(text) - MAX_JSON:,} characters more"


def masked_text(text: str) -> str:
    """A text with what looks like a secret masked."""
    return redact_text(text)
