"""Masks secrets in log lines, as a safety net: secrets should not be logged at all.

Masks values whose name says that they are secret, and in any text bearer tokens, JSON Web Tokens, API keys, passwords
in URLs, private keys, and the value after such a name.

Every line passes here, so a quick check first skips text that cannot hold a secret: 0.1 µs for most values.
"""

import re
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any

from pydantic_core import to_jsonable_python

from plinth.settings.urls import MASK
from plinth.telemetry.log_lines import MAX_LINE, cut

__all__ = ["redact", "redact_text"]

_NAMES = r"password|passwd|passphrase|secret|credential|authorization|cookie|api[_-]?key|private[_-]?key|access[_-]?key"
# Tokens in the plural are counted, not shown.
_SECRET_NAME = re.compile(rf"{_NAMES}|token$|(?:^|[_-])pwd$", re.IGNORECASE)

_TEXT = re.compile(
    rf"""
    -----BEGIN[A-Z ]*\ PRIVATE\ KEY-----.*?(?:-----END[A-Z ]*-----|\Z)
    # Atomic: of a long word without a dot only the first place is tried, or it would be each of many.
    | (?<![\w-])(?P<before>(?>[\w-]*?\b(?=eyJ)))(?>eyJ[\w-]{{6,}})\.[\w-]{{6,}}(?:\.[\w-]*)*
    # An API key of `plinth.identity.api_keys`: its id stays, its secret does not.
    | (?P<key>plk_(?:[0-9a-f]{{32}}_(?=\w{{16}}))?)\w{{16,}}
    # Not each word of a sentence is a token.
    | \b(?P<scheme>(?:bearer|basic)\s+)(?!realm=|error=)(?=\S*[\d=]|\S{{16}})[\w.~+/=:-]{{6,}}
    | (?P<user>://[^\s/:"']*:)[^\s/"']*(?=@)
    | (?P<alone>://)[^\s/:@"']{{20,}}(?=@)
    # A name, perhaps quoted, then = : or, in a pair, a comma; then the value, perhaps quoted too, or a list of values.
    | (?P<name>(?:{_NAMES}|token(?!s)|\bpwd)[\w-]{{0,40}}(?:\\*["']\s*(?::=|=>|[:=,])|\s*(?::=|=>|[:=]))\s*)
        (?P<value>b?(?P<quote>\\*["'])(?:(?!(?P=quote))(?:\\.|.))*(?:(?P=quote)|\Z)
            | \[[^\]]*(?:\]|\Z) | \{{[^}}]*(?:\}}|\Z)
            # A scheme before it, but not a name, whose value is another's.
            | (?:(?:bearer|basic|digest|token)[ \t]+(?=\S*[\d=]|\S{{16}})(?![\w-]+\s*[:=]\s*[\\"'\[{{]))?
                [^\s,;&"'<>)\]}}\\]+)
    | (?P<option>--(?:[a-z-]{{0,40}}-)?(?:{_NAMES}|token)(?:-[a-z-]{{0,40}})?\ )\S+
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
# Header lines as clients and servers print them: everything up to the end of the line, or of the text that they are
# quoted in, whatever its form.
_HEADER = re.compile(
    r"""\b((?:proxy-)?authorization|(?:set-)?cookie)(:[ \t]*)(?:[^\r\n"']|(?<==)"[^"\r\n]*"|(?<=\\)")+""", re.IGNORECASE
)

MAX_BITS = 64  # of a number: parsers refuse a larger one, and Python those of more than 4300 digits
_PLAIN = (int, float, bool, type(None))
_NEVER_SECRET = (bool, type(None))


def redact(event: MutableMapping[str, Any]) -> None:
    """Mask the secrets in a line's values, in place."""
    for name, value in event.items():
        if type(value) is str:
            if is_secret(name):
                event[name] = MASK
            elif len(value) > MAX_LINE:
                event[name] = _text(value)
            elif " " in value or ":" in value or "=" in value or "eyJ" in value or "plk_" in value or '",' in value:
                event[name] = redact_text(value)
        elif type(value) not in _PLAIN or (is_secret(name) and type(value) not in _NEVER_SECRET):
            event[name] = _redacted(name, value)
        elif type(value) is int and value.bit_length() > MAX_BITS:
            event[name] = hex(value)


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Whether a value of this name is secret."""
    return _SECRET_NAME.search(str(name)) is not None  # other libraries' lines may have names that are no text


def redact_text(text: str) -> str:
    """Mask the parts of a text that look like secrets."""
    lower = text.lower()
    if not any(word in lower for word in _TRIGGERS):
        return text
    if "authorization:" in lower or "cookie:" in lower:
        text = _HEADER.sub(rf"\1\2{MASK}", text)
    return _TEXT.sub(_masked, text)


# Everything that the patterns find contains one of these.
_TRIGGERS = (
    "eyj", "plk_", "://", "bearer", "basic", "passw", "passphrase", "pwd", "secret", "credential", "authorization",
    "cookie", "token", "key",
)  # fmt: skip


def _masked(found: re.Match[str]) -> str:
    if found["name"]:
        quote = found["quote"] or ""
        return f"{found['name']}{quote}{MASK}{quote}"
    # The one group of any other secret is what stands before it.
    return f"{found[found.lastgroup] if found.lastgroup else ''}{MASK}"


def _redacted(name: str, value: object) -> Any:
    if is_secret(name):
        return MASK
    # A value that cannot be converted must not cost the line.
    try:
        return _walk(to_jsonable_python(value, fallback=str))
    except Exception:  # noqa: BLE001
        return _text(_shown(value))


def _text(text: str) -> str:
    """Mask the secrets in a text, and cut one that makes a line too long: 10 MB would take seconds."""
    return redact_text(text) if len(text) <= MAX_LINE else cut(text, redact_text)


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - its `__repr__` fails
        return f"<{type(value).__qualname__}>"


def _walk(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if type(value) is int and value.bit_length() > MAX_BITS:
        return hex(value)
    if isinstance(value, dict):
        return {
            key: MASK if is_secret(str(key)) and not isinstance(item, _NEVER_SECRET) else _walk(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        match value:
            case [str(name), str()] if is_secret(name):  # a header, as clients and servers keep them
                return [name, MASK]
        return [_walk(item) for item in value]
    return value
