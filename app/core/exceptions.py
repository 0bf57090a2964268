"""The service's errors, beside those of `plinth.errors`. Each derives from one of them and has a `code` of its own."""

# sample: begin
from plinth.errors import ConflictError

__all__ = ["ExportNotReadyError", "TooManyExportsError"]


class ExportNotReadyError(ConflictError):
    """The file of an export was asked for before it was there."""

    code = "export_not_ready"


class TooManyExportsError(ConflictError):
    """An owner has as many exports as one may have."""

    code = "too_many"


# sample: end
