"""Finds keys of a `.env` file that are not settings, and misspelt settings in the environment."""

import re
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from dotenv.parser import parse_stream

# Any other text before a = may be part of a secret, such as a line of a key in base64.
_NAME = re.compile(r"[A-Z][A-Z0-9_]*|[a-z][a-z0-9_]*")

# A shorter name differs by one letter from too many variables of other programs.
_MIN_LENGTH = 8


def scan(path: Path, known: Collection[str]) -> tuple[set[str], list[str]]:
    """Return the keys of an `.env` file and the problems in it. A file that does not exist has neither.

    Every key must be one of `known`, or start with COMPOSE_: Docker Compose reads the same file.
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
    """Return the message that `name` is not one of `known`, with the most similar of them."""
    nearest = get_close_matches(name.upper(), known, n=1, cutoff=0.7)
    return f"not a setting; did you mean {nearest[0]}?" if nearest else "not a setting"


def misspelt(names: Iterable[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each name that is one typing error away from a setting, with that setting.

    Other programs, images and Kubernetes (`REDIS_PORT`, `REDIS_SERVICE_HOST`) put variables into the same
    environment, so a name that is merely similar is left alone.
    """
    settings = [(_fold(name), name) for name in known if len(_fold(name)) >= _MIN_LENGTH]
    for name in names:
        if name not in known:
            folded = _fold(name)
            yield from ((name, setting) for right, setting in settings if _one_error_apart(folded, right))


def _fold(name: str) -> str:
    return name.upper().replace("_", "")


def _one_error_apart(typed: str, right: str) -> bool:
    """Return whether one letter added, removed or changed, or two swapped, turn `right` into `typed`."""
    if abs(len(typed) - len(right)) > 1:
        return False
    # Without the common beginning and end, only the difference is left.
    while typed and right and typed[0] == right[0]:
        typed, right = typed[1:], right[1:]
    while typed and right and typed[-1] == right[-1]:
        typed, right = typed[:-1], right[:-1]
    return len(typed) <= 1 >= len(right) or (len(typed) == 2 and typed == right[::-1])
