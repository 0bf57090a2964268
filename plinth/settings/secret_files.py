"""Secrets in files: `SECRET_KEY_FILE=/run/secrets/key` gives SECRET_KEY, and so for every setting that is a secret."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from errno import EINVAL
from pathlib import Path
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

_SUFFIX = "_FILE"
_MOST_BYTES = 65_536


def variables(fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """Return the variables that name a file, each with its setting."""
    found = {f"{name}{_SUFFIX}": name for name, own in fields.items() if _is_secret(own.annotation)}
    return {variable: name for variable, name in found.items() if variable not in fields}


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that a variable names: what was read of it, or what was expected."""

    name: str  # of the setting
    variable: str
    origin: str  # of the variable
    secret: str = field(default="", repr=False)
    problem: str = ""


def read_all(files: Mapping[str, str], places: Mapping[str, Mapping[str, Any]]) -> Iterator[SecretFile]:
    """Read the file of each variable that the first of the `places` sets. No problem quotes anything of a file."""
    for variable, name in files.items():
        origin = next((origin for origin, place in places.items() if place.get(variable)), None)
        if origin is None:
            continue
        try:
            if any(place.get(name) for place in places.values()):
                raise ValueError(f"{name} is set too: expected one of the two")
            yield SecretFile(name, variable, origin, secret=_read(places[origin][variable]))
        except ValueError as error:
            yield SecretFile(name, variable, origin, problem=str(error))


def _read(path: str) -> str:
    """The secret in a file, without the line break at its end."""
    try:
        kind = S_IFMT(Path(path).stat().st_mode)
        if kind not in (S_IFREG, S_IFDIR):  # a pipe that nothing writes to would hang the start
            raise OSError(EINVAL, "not a regular file")
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"expected a file that can be read ({str(error.strerror).lower()})") from None
    except ValueError:  # no UTF-8, or a path with a null byte
        raise ValueError("expected a file of text in UTF-8") from None
    if not text.strip():
        raise ValueError("expected a file with the secret, and it is empty")
    if "\0" in text or len(content) > _MOST_BYTES:
        raise ValueError(f"expected a file that holds the secret alone, of at most {_MOST_BYTES} bytes")
    return text


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))
