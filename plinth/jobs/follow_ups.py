"""Follow-up jobs of many runs, in few statements."""

from collections.abc import Iterable

from plinth.jobs.enqueue import Insertion, Terms

__all__ = ["MAX_ROWS", "merged"]

MAX_ROWS = 1000  # in one statement


def merged(insertions: Iterable[Insertion]) -> list[Insertion]:
    """Return the same jobs in as few statements as possible, each of `MAX_ROWS` jobs at most."""
    alike: dict[tuple[Terms, int], list[Insertion]] = {}
    for insertion in insertions:
        alike.setdefault((insertion.terms, id(insertion.context)), []).append(insertion)
    larger = []
    for (terms, _), group in alike.items():
        rows = [row for insertion in group for row in insertion.rows]
        starts = range(0, len(rows), MAX_ROWS)
        larger += [Insertion(terms, rows[start : start + MAX_ROWS], group[0].context) for start in starts]
    return larger
