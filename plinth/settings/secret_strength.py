"""Tells secrets that can be guessed: examples, patterns, and what is too short."""

import math
import re
from collections import Counter
from itertools import pairwise

from pydantic import SecretStr

from plinth.settings.keys import secrets_in

__all__ = ["MIN_SECRET_LENGTH", "is_example", "weakness", "weakness_of_any"]

MIN_SECRET_LENGTH = 32  # HS256 wants a key no shorter than its hash (RFC 7518, 3.2)
# By the frequency of its characters: of 400,000 times 32 random hexadecimal digits the lowest had 86.
MIN_BITS = 80

# Parts of the secrets for signing that this repository, and the guides of the providers, print as examples.
_SIGNING_EXAMPLES = (
    *("fordevelopmentonly", "donotdeploy", "fortryingout", "supersecret"),
    *("changeme", "yoursecret", "replaceme"),
)
# The passwords and tokens that this repository prints.
_EXAMPLES = ("plinth", "password", "for-trying-out-only", "the-token", "the-key", "the-secret")
_ROWS = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiopasdfghjklzxcvbnm")
_STEPS = {pair for row in _ROWS for pair in (*pairwise(row), *pairwise(reversed(row)))}


def weakness(secret: str) -> str | None:
    """What is wrong with a secret that signs, in words that do not quote it; None: nothing that can be told."""
    letters = re.sub(r"[^a-z0-9]", "", secret.lower())
    if len(secret) < MIN_SECRET_LENGTH or any(
        example in text for example in _SIGNING_EXAMPLES for text in (letters, letters[::-1])
    ):
        return f"expected a secret of your own of {MIN_SECRET_LENGTH} characters or more (openssl rand -hex 32)"
    if _bits(secret) < MIN_BITS or _is_repetitive(secret) or _is_sequence(secret.lower()):
        return "expected random characters (openssl rand -hex 32), not ones that can be guessed"
    return None


def weakness_of_any(value: SecretStr) -> str | None:
    """What is wrong with one of the secrets that a setting holds."""
    return next(filter(None, map(weakness, secrets_in(value))), None)


def is_example(secret: str, user: str | None = None) -> bool:
    """Whether a password or a token is one that is printed as an example, or is the name of its user."""
    return secret.lower() in _EXAMPLES or secret == user


def _bits(secret: str) -> float:
    """The entropy of its characters by their frequency, which is the most that it can have."""
    size = len(secret)
    return -sum(count * math.log2(count / size) for count in Counter(secret).values())


def _is_repetitive(secret: str) -> bool:
    """Whether it says again what it has said: of the 30 triples in 32 random digits 29 or 30 differ."""
    triples = [secret[start : start + 3] for start in range(len(secret) - 2)]
    return len(set(triples)) < len(triples) * 2 / 3


def _is_sequence(secret: str) -> bool:
    """Whether most characters follow the one before, as in abcdef, 123456 or qwerty, or are the same."""
    pairs = list(pairwise(secret))
    return sum(pair in _STEPS or pair[0] == pair[1] for pair in pairs) > len(pairs) * 2 / 3
