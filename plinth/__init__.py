"""Plinth: the platform that a FastAPI service runs on."""

__version__ = "0.1.0"
