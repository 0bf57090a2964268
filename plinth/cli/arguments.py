"""Arguments of the commands that are more than a word: times, durations, names, and what several commands share."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

__all__ = ["DURATION", "MOMENT", "NAME", "NAMES", "json_option"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MAX_DURATION = timedelta(days=3650)


def _duration(text: str) -> timedelta | None:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text)
    return timedelta(**{_UNITS[found[2]]: float(found[1])}) if found else None


class _Duration(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        duration = _duration(value)
        if duration is None or duration > _MAX_DURATION:
            self.fail("expected a number and a unit, such as 30s, 15m, 2h or 3d, up to 3650d.", param, ctx)
        return duration


class _Moment(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        age = _duration(value)
        try:
            if age is not None:
                return datetime.now(UTC) - age
            moment = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            self.fail(
                "expected a time such as 2030-01-31T08:00 (UTC unless it says otherwise) or an age such as 2h or 3d.",
                param,
                ctx,
            )
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class _Names(click.ParamType[list[str]]):
    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        return [NAME.convert(name.strip(), param, ctx) for name in value.split(",")]


class _Name(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from plinth.jobs.kinds import check_name

        try:
            check_name(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        return str(value)


DURATION = _Duration()
"""`90s`, `2h`, `3d`: a timedelta."""
MOMENT = _Moment()
"""An ISO time, or an age such as `2h`: a datetime with a time zone."""
NAME = _Name()
"""What can be the name of a queue, a kind or a schedule."""
NAMES = _Names()
"""Several of them, separated by commas."""

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
