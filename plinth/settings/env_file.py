"""Names that are no settings: keys of a `.env` file, and slips of the finger in the environment."""

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

# Anything else before a = may be a piece of a secret, such as a line of a key in base64.
_NAME = re.compile(r"[A-Z][A-Z0-9_]*|[a-z][a-z0-9_]*")

# A shorter name is one letter away from too many variables that other programs own.
_MIN_LENGTH = 8


def scan(path: Path, known: Collection[str]) -> tuple[set[str], list[str]]:
    """The keys of an `.env` file, if there is one, and what is wrong with it.

    The file is ours alone, so that every key must be one of `known`. Only COMPOSE_* is let through: Docker
    Compose reads the same file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        return set(), []
    except (OSError, UnicodeDecodeError) as error:
        return set(), [f"{path}: cannot be read ({type(error).__name__})"]
    keys: set[str] = set()
    problems: list[str] = []
    for key, value, original, wrong in parse_stream(StringIO(text)):
        if wrong or (key and (value is None or not _NAME.fullmatch(key))):
            problems.append(f"{path}, line {original.line}: expected NAME=value")
        elif key:
            keys.add(key)
            if key not in known and not key.startswith("COMPOSE_"):
                problems.append(f"{key} ({path}): {unknown(key, known)}")
    return keys, problems


def unknown(name: str, known: Iterable[str]) -> str:
    """Says that `name` is not one of `known`, and which of them it most resembles."""
    nearest = get_close_matches(name.upper(), known, n=1, cutoff=0.7)
    return f"not a setting; did you mean {nearest[0]}?" if nearest else "not a setting"


def misspelt(names: Iterable[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Pairs of a name and the setting it must have meant: one slip of the finger apart.

    The environment belongs to everybody: images, platforms and Kubernetes (`REDIS_PORT`, `REDIS_SERVICE_HOST`)
    put their names there. To be similar is not enough.
    """
    settings = [(_fold(name), name) for name in known if len(_fold(name)) >= _MIN_LENGTH]
    for name in names:
        if name not in known:
            folded = _fold(name)
            yield from ((name, setting) for right, setting in settings if _one_slip(folded, right))


def _fold(name: str) -> str:
    return name.upper().replace("_", "")


def _one_slip(typed: str, right: str) -> bool:
    """Whether one letter more, less or other, or two letters swapped, make `typed` out of `right`."""
    if abs(len(typed) - len(right)) > 1:
        return False
    # What remains when the same beginning and the same end are taken off tells the slip.
    while typed and right and typed[0] == right[0]:
        typed, right = typed[1:], right[1:]
    while typed and right and typed[-1] == right[-1]:
        typed, right = typed[:-1], right[:-1]
    return len(typed) <= 1 >= len(right) or (len(typed) == 2 and typed == right[::-1])
