"""What the commands print: tables for people, JSON for programs.

In JSON one thing is one object on one line, and a list is a line for each of its members (NDJSON).
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import click

__all__ = ["cut", "print_json", "print_list", "print_one", "printable", "progress", "shown"]


def printable(text: str) -> str:
    """Text on one line: a terminal obeys control characters, and what clients have sent may hold some."""
    return text if text.isprintable() else repr(text)[1:-1]


def cut(text: str | None, length: int) -> str | None:
    """The beginning of a text."""
    return text if text is None or len(text) <= length else text[: length - 1] + "…"


def shown(value: object) -> str:
    """A value as people read it. Times are in UTC, in a form that `--since` takes."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case dict():
            return printable(json.dumps(value, ensure_ascii=False))
        case list() | tuple():
            return printable(", ".join(map(str, value))) or "-"
        case _:
            return printable(str(value))


def print_json(thing: Any) -> None:
    """One object: a dictionary or a dataclass."""
    from pydantic_core import to_json

    click.echo(to_json(thing).decode())


def print_one(thing: Any, sentence: object, *, as_json: bool) -> None:
    """`thing` as JSON, or else `sentence`, which says of it what people want to know."""
    if as_json:
        print_json(thing)
    else:
        click.echo(sentence)


def print_list(
    things: Sequence[Any], columns: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool, none: str
) -> None:
    """`things` as JSON, or else `rows` as a table; `none` is what people are told of an empty list."""
    if as_json:
        for thing in things:
            print_json(thing)
    elif not things:
        click.echo(none, err=True)
    else:
        lines = [columns, *(tuple(map(shown, row)) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@contextmanager
def progress(what: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while the block runs, fed with how many are done and of how many.

    Where stderr is no terminal there is none.
    """
    with ExitStack() as closing:
        bars: list[Any] = []

        def told(done: int, total: int) -> None:
            if not bars:
                dark = hidden or not sys.stderr.isatty()
                bar = click.progressbar(length=total, label=what, file=sys.stderr, hidden=dark)
                bars.append(closing.enter_context(bar))
            bars[0].update(done - bars[0].pos)

        yield told
