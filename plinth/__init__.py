"""Plinth: the platform that a FastAPI service runs on."""

from plinth.first_imports import import_first

__version__ = "0.1.0"

import_first()
