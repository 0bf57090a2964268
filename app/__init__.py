"""Plinth: an API, its migrations and its command line."""

__version__ = "0.1.0"

import plinth  # noqa: F401 - before FastAPI, which OTEL_PROPAGATORS could stop at its import
