"""Types of arguments that are more than a word: times, durations, names. And the option that most commands have."""

import math
import re
import socket
from datetime import datetime, timedelta
from typing import Any

import click

from plinth.settings.types import PATH_PREFIX
from plinth.times import read_duration, read_moment

__all__ = ["FiniteRange", "address", "duration", "json_option", "moment", "name", "names", "path_prefix", "revision"]

_MAX_DURATION = timedelta(days=3650)

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


class FiniteRange(click.FloatRange):
    """A number within bounds; not NaN, which is within all of click's, and not infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def address(text: str) -> str:
    """An address to listen on. `::`, which is all of both families, is all of IPv4 where the machine has no IPv6."""
    return text if text != "::" or socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104


def duration(text: str) -> timedelta:
    """`90s`, `2h`, `3d`."""
    parsed = read_duration(text)
    if parsed is None or parsed > _MAX_DURATION:
        raise click.BadParameter("expected a number and a unit, such as 30s, 15m, 2h or 3d, up to 3650d.")
    return parsed


def moment(text: str) -> datetime:
    """An ISO time, or an age such as `2h`."""
    try:
        return read_moment(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def name(text: str) -> str:
    """What can be the name of a queue, a kind or a schedule."""
    from plinth.jobs.kinds import check_name

    try:
        check_name(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None
    return text


def path_prefix(text: str) -> str:
    """A path such as `/shop`; nothing for none."""
    if text and not re.fullmatch(PATH_PREFIX, text):
        raise click.BadParameter("expected a path such as /shop, with no slash at the end.")
    return text


def names(text: str) -> list[str]:
    """Several of them, separated by commas."""
    return [name(part.strip()) for part in text.split(",")]


def revision(text: str) -> str:
    """A revision as Alembic takes it: `heads`, `-1`, `plinth@base`."""
    if not re.fullmatch(r"[^@\s]+(@[^@\s]+)?", text):
        raise click.BadParameter("expected a revision, such as heads, -1 or plinth@base.")
    return text
