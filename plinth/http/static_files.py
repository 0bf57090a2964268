"""Files of web pages: scripts, styles and pictures."""

import os
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

__all__ = ["Assets"]


class Assets(StaticFiles):
    """The files of a page. Browsers keep them, and ask before each use whether they have changed."""

    def file_response(self, full_path: str | os.PathLike[str], *arguments: Any, **options: Any) -> Response:
        response = super().file_response(full_path, *arguments, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response
