"""Plinth: an API, its migrations and its command line."""

__version__ = "0.1.0"
