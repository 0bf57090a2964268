"""Imports libraries without the variables that can make their import fail.

`opentelemetry.propagate` raises at import if OTEL_PROPAGATORS names what is not installed, such as b3, and FastAPI
imports it. OTEL_PYTHON_CONTEXT prints a traceback in the same way. The settings read OTEL_PROPAGATORS instead.
"""

import os

__all__ = ["import_first"]

_HIDDEN = ("OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT")


def import_first() -> None:
    """Import what reads these variables, while they are not set."""
    hidden = {name: os.environ.pop(name) for name in _HIDDEN if name in os.environ}
    try:
        import opentelemetry.propagate  # noqa: F401
    finally:
        os.environ.update(hidden)
