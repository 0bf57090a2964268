"""What a fault has cost, in figures."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PROPERTY", "Figures", "table"]

PROPERTY = "faults"
"""The user property of a test under which its figures travel, from xdist's workers as well."""


@dataclass(slots=True)
class Figures:
    """`taken_back` counts runs that were taken away from lost workers; `recovery` is in seconds, the longest."""

    fault: str
    jobs: int
    effects: int
    lost: int
    doubled: int
    runs: int
    taken_back: int
    recovery: float | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of text, the last one the sum."""
    counts = ("jobs", "effects", "lost", "doubled", "runs", "taken_back")
    total = {"fault": "in all", "recovery": None, "note": ""} | {
        name: sum(row[name] for row in rows) for name in counts
    }
    lines = [
        f"{'fault':<52} {'jobs':>6} {'effects':>7} {'lost':>4} {'doubled':>7} {'runs':>6} {'crashed':>7} {'back in':>8}"
    ]
    for row in (*rows, total):
        recovery = "" if row["recovery"] is None else f"{row['recovery']:.1f} s"
        lines.append(
            f"{row['fault']:<52} {row['jobs']:>6} {row['effects']:>7} {row['lost']:>4} {row['doubled']:>7} "
            f"{row['runs']:>6} {row['taken_back']:>7} {recovery:>8}  {row['note']}".rstrip()
        )
    return lines
