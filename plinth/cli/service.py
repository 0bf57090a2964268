"""Finds the service that a command is run for: the table `[tool.plinth]` of the nearest pyproject.toml."""

import gc
import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

from plinth.settings import PlatformSettings

__all__ = ["ServiceError", "declared_settings", "load"]

TABLE = '[tool.plinth]\nsettings = "app.core.config:Settings"'


_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class ServiceError(Exception):
    """There is no service here, or its declaration is wrong; the message says what to write where."""


def declared_settings(folder: Path) -> type[PlatformSettings]:
    """Import the settings class that the service in `folder`, or in the nearest folder above it, declares.

    The folder of the declaration becomes the first entry of `sys.path`.

    Raises:
        ServiceError: there is no declaration, or it does not name a settings class.
    """
    file, table = _declaration(folder.resolve())
    name = table.get("settings")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ServiceError(f"{file}: [tool.plinth] needs settings, the service's settings class:\n\n{TABLE}")
    if sys.path[0] != str(file.parent):
        sys.path.insert(0, str(file.parent))
    found = _load(name, f"{file}: [tool.plinth] settings")
    if not (isinstance(found, type) and issubclass(found, PlatformSettings) and hasattr(found, "service")):
        raise ServiceError(
            f"{file}: [tool.plinth] settings names {name}, which is no subclass of plinth.settings.PlatformSettings "
            "with a `service`"
        )
    return found


def load(name: str) -> Any:
    """Import what a field of a `Service` names: `package.module:attribute` or `package.module`.

    Raises:
        ServiceError: there is none.
    """
    return _load(name, "The declared service")


def _load(name: str, declaration: str) -> Any:
    module, _, attribute = name.partition(":")
    # While code loads there is next to no garbage, and looking for it took a seventh of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        # Only if it is this module that is missing, or a package around it. An import that fails in its code is a fault
        # of that code, and its traceback says where.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ServiceError(f"{declaration} names {name}, which cannot be imported: {error}") from error
    finally:
        if collecting:
            gc.enable()
    if attribute and not hasattr(found, attribute):
        raise ServiceError(f"{declaration} names {name}, but {module} has no {attribute}")
    return getattr(found, attribute) if attribute else found


def _declaration(folder: Path) -> tuple[Path, dict[str, Any]]:
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            tools = tomllib.loads(file.read_text(encoding="utf-8")).get("tool")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ServiceError(f"{file} cannot be read: {error}") from error
        table = tools.get("plinth") if isinstance(tools, dict) else None
        if table is not None:
            return file, table if isinstance(table, dict) else {}
    raise ServiceError(
        f"There is no service in {folder}: plinth looks there and above for a pyproject.toml with\n\n{TABLE}"
    )
