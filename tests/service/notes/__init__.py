"""Notes: the smallest service that uses every part of the platform."""

__version__ = "1.2.3"
