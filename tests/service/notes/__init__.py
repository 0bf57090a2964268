"""Notes: the smallest service that uses every part of the platform."""

import plinth  # noqa: F401 - before FastAPI, which OTEL_PROPAGATORS could stop at its import

__version__ = "1.2.3"
