"""Plinth: the platform that a FastAPI service runs on."""

from plinth.opentelemetry_api import import_api

__version__ = "0.1.0"

import_api()
