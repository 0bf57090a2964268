"""The secret key of `plinth run` where no setting gives one: made once, kept in the data folder."""

import os
import secrets
import stat
from pathlib import Path

from plinth.embedded.process import EmbeddedError
from plinth.settings import PlatformSettings
from plinth.settings.secret_strength import weakness

FILE = "secret-key"
_MOST_BYTES = 1024


def make_key(settings: PlatformSettings, folder: Path) -> dict[str, str]:
    """Make the key of the runs on `folder` unless there is one, and return it as `found_key` does.

    To be called with the folder locked.
    """
    path = folder / FILE
    if "SECRET_KEY" not in settings.model_fields_set and not path.exists():
        # Renamed when it is complete: a process that is killed leaves no half of a key.
        unfinished = folder / f"{FILE}.new"
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600, exist_ok=False)
        unfinished.write_text(f"{secrets.token_hex(32)}\n")
        unfinished.rename(path)
    return found_key(settings, folder)


def found_key(settings: PlatformSettings, folder: Path) -> dict[str, str]:
    """SECRET_KEY of the runs on `folder`, for an environment; empty if the settings give one, or no run made one.

    Raises EmbeddedError when it is not this user's alone, or no key.
    """
    path = folder / FILE
    if "SECRET_KEY" in settings.model_fields_set:
        return {}
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            key = file.read(_MOST_BYTES).decode("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise EmbeddedError(f"The key in {path} cannot be read: {str(error.strerror).lower()}.") from None
    if os.geteuid() not in (0, found.st_uid) or stat.S_IMODE(found.st_mode) & 0o077 or weakness(key):
        raise EmbeddedError(
            f"{path} is not a key of this user's own, with mode 0600. Remove it: the next `plinth run` makes another."
        )
    return {"SECRET_KEY": key}
