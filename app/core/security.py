"""Access rules of this service: callers see and change only what they own."""

from typing import Protocol, TypeVar

from plinth.errors import NotFoundError

__all__ = ["owned_by"]


class Owned(Protocol):
    """A row with its owner: the `owner` of a principal."""

    owner: str


T = TypeVar("T", bound=Owned)


def owned_by(owner: str, row: T | None, *, name: str) -> T:
    """Return `row` if it is there and belongs to `owner`. `name` says in the error what it is.

    Raises:
        NotFoundError: it is not there or belongs to another owner. Both get the same answer, which does not tell
            which ids exist.
    """
    if row is None or row.owner != owner:
        raise NotFoundError(f"There is no such {name}.")
    return row
