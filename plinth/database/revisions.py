"""The revisions of this code in their two branches, and what a database lacks of them.

Read from the files' headers: Alembic would import every revision, and every API and worker asks.
"""

import re
from ast import literal_eval
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

__all__ = ["FIRST", "PLATFORM", "SERVICE", "VERSIONS", "Revisions", "branch_of", "read_revisions"]

PLATFORM = "plinth"
"""The branch of the platform; its label for Alembic."""
SERVICE = "service"
"""The branch of the service, which needs no label."""
VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"
"""The folder of the platform's revisions."""
FIRST = "plinth_0001"
"""The platform's revision on which a service's first one depends: the functions that every table uses."""

_HEADER = re.compile(r"^(revision|down_revision|depends_on)\b[^=\n]*= *(\([^)]*\)|\[[^\]]*\]|[^\n]*)", re.MULTILINE)


def branch_of(revision: str) -> str:
    """The branch of a revision, of one of later code too."""
    return PLATFORM if revision.startswith(f"{PLATFORM}_") else SERVICE


@dataclass(frozen=True, slots=True)
class Revisions:
    """Revisions, the platform's first and then the oldest first, each with those that it comes after."""

    parents: Mapping[str, tuple[str, ...]]

    def heads(self, branch: str) -> list[str]:
        """The newest revisions of a branch: one, unless they have to be merged."""
        own = [revision for revision in self.parents if branch_of(revision) == branch]
        inner = {parent for revision in own for parent in self.parents[revision]}
        return [revision for revision in own if revision not in inner]

    def unknown(self, rows: Iterable[str]) -> list[str]:
        """Those of a database's version rows that only later code has."""
        return sorted(row for row in rows if row not in self.parents)

    def missing(self, rows: Iterable[str]) -> list[str]:
        """What a database with these version rows lacks, oldest first. A branch ahead of this code lacks nothing."""
        rows = set(rows)
        ahead = {branch_of(row) for row in self.unknown(rows)}
        if SERVICE in ahead and not any(branch_of(row) == PLATFORM for row in rows):
            # It depends on the platform's newest revision of its time, whose row Alembic has replaced by its own.
            ahead.add(PLATFORM)
        applied = set(self._with_ancestors(rows))
        return [revision for revision in self.parents if revision not in applied and branch_of(revision) not in ahead]

    def _with_ancestors(self, revisions: Iterable[str]) -> Iterator[str]:
        waiting, seen = list(revisions), set[str]()
        while waiting:
            if (revision := waiting.pop()) in self.parents and revision not in seen:
                seen.add(revision)
                waiting += self.parents[revision]
                yield revision


def read_revisions(migrations: Path) -> Revisions:
    """The platform's revisions, and those of the service whose Alembic folder is `migrations`."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in (VERSIONS, migrations / "versions"):
        for file in sorted(folder.glob("*.py")):
            text = file.read_text(encoding="utf-8")
            try:
                header = {name: _names(value) for name, value in _HEADER.findall(text)}
            except (ValueError, SyntaxError):
                raise ValueError(f"{file}: revision, down_revision and depends_on must be written out") from None
            for revision in header.get("revision", ()):
                found[revision] = (*header.get("down_revision", ()), *header.get("depends_on", ()))
    order = [revision for revision in TopologicalSorter(found).static_order() if revision in found]
    return Revisions({revision: found[revision] for revision in sorted(order, key=lambda r: branch_of(r) != PLATFORM)})


def _names(value: str) -> tuple[str, ...]:
    """The revisions that a value in a file's header names: one, several or none."""
    found = literal_eval(value)
    return (found,) if isinstance(found, str) else tuple(found or ())
