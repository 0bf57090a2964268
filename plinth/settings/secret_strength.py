"""Tells secrets that can be guessed: examples, patterns, and what is too short."""

import math
from collections import Counter
from itertools import pairwise

from pydantic import SecretStr

from plinth.settings.keys import secrets_in

__all__ = ["MIN_SECRET_LENGTH", "weakness", "weakness_of_any"]

MIN_SECRET_LENGTH = 32  # HS256 wants a key no shorter than its hash (RFC 7518, 3.2)
# By the frequency of its characters 32 random hexadecimal digits have 100 bits or more, in all but one of a million.
MIN_BITS = 90

# Of the examples that this repository, and the guides of the providers, print.
_EXAMPLES = (
    *("for-development-only", "do-not-deploy", "super-secret"),
    *("change-me", "changeme", "your-secret", "replace-me"),
)


def weakness(secret: str) -> str | None:
    """What is wrong with a secret that signs, in words that do not quote it; None: nothing that can be told."""
    words = secret.lower().replace("_", "-")
    if len(secret) < MIN_SECRET_LENGTH or any(example in words for example in _EXAMPLES):
        return f"expected a secret of your own of {MIN_SECRET_LENGTH} characters or more (openssl rand -hex 32)"
    if _bits(secret) < MIN_BITS or _is_repetition(secret) or _is_sequence(secret):
        return "expected random characters (openssl rand -hex 32), not ones that can be guessed"
    return None


def weakness_of_any(value: SecretStr) -> str | None:
    """What is wrong with one of the secrets that a setting holds."""
    return next(filter(None, map(weakness, secrets_in(value))), None)


def _bits(secret: str) -> float:
    """The entropy of its characters by their frequency, which is the most that it can have."""
    size = len(secret)
    return -sum(count * math.log2(count / size) for count in Counter(secret).values())


def _is_repetition(secret: str) -> bool:
    """Whether it says one thing over and over, the last time perhaps not to its end."""
    return any(secret.startswith(secret[period:]) for period in range(1, len(secret) // 2 + 1))


def _is_sequence(secret: str) -> bool:
    """Whether most characters follow the one before, as in abcdef or 123456."""
    steps = [ord(after) - ord(before) for before, after in pairwise(secret)]
    return sum(step in (-1, 0, 1) for step in steps) > len(steps) / 2
