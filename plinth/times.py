"""Times and durations as people write them: `2h`, `3d`, `2030-01-31T08:00`."""

import re
from datetime import UTC, datetime, timedelta

__all__ = ["read_duration", "read_moment"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def read_duration(text: str) -> timedelta | None:
    """`90s`, `15m`, `2h` or `3d`; None for any other text."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text)
    return timedelta(**{_UNITS[found[2]]: float(found[1])}) if found else None


def read_moment(text: str, *, now: datetime | None = None) -> datetime:
    """An ISO time, in UTC unless it says otherwise, or an age such as `2h` at `now`.

    Raises:
        ValueError: it is neither; the message says what is expected.
    """
    try:
        if (age := read_duration(text)) is not None:
            return (now or datetime.now(UTC)) - age
        parsed = datetime.fromisoformat(text)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            "expected a time such as 2030-01-31T08:00 (UTC unless it says otherwise) or an age such as 2h or 3d"
        ) from None
