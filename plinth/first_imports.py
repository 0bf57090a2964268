"""Imports libraries without the variables that can make their import, or what comes of it, fail.

`opentelemetry.propagate` raises at import if OTEL_PROPAGATORS names what is not installed, such as b3, and FastAPI
imports it. OTEL_PYTHON_CONTEXT prints a traceback in the same way. The settings read OTEL_PROPAGATORS instead.

With PROMETHEUS_MULTIPROC_DIR, Prometheus's client keeps each metric in a file, which is for several processes behind
one port: the first metric raises where there is no such folder, and counters outlive their process where there is.
"""

import os

__all__ = ["MULTIPROCESS", "import_first"]

MULTIPROCESS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")

_HIDDEN = ("OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT", *MULTIPROCESS)


def import_first() -> None:
    """Import what reads these variables, while they are not set."""
    hidden = {name: os.environ.pop(name) for name in _HIDDEN if name in os.environ}
    try:
        import opentelemetry.propagate  # noqa: F401

        if not hidden.keys().isdisjoint(MULTIPROCESS):  # which takes 50 ms, and no command else needs
            import prometheus_client.values  # noqa: F401
    finally:
        os.environ.update(hidden)
