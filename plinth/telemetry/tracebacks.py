"""Tracebacks as text, also of exceptions that Python itself cannot show."""

from traceback import format_exception, format_tb

__all__ = ["traceback_of"]


def traceback_of(error: BaseException) -> str:
    """The traceback. Where Python fails to write it, as of a SyntaxError with an odd place: the frames and the type."""
    try:
        return "".join(format_exception(error))
    except Exception:  # noqa: BLE001 - whatever is in the exception must not end what reports it
        return f"{''.join(format_tb(error.__traceback__))}{type(error).__qualname__}\n"
