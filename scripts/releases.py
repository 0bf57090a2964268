"""Reads the releases in CHANGELOG.md: `releases.py newest`, `releases.py notes 0.2.0`.

A release is a heading that names a version, a day and the released commit: `## 0.2.0 (2026-12-31, 0123456789ab)`.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
HEADING = re.compile(r"(?m)^## (?P<version>\d+\.\d+\.\d+) \((?P<day>\d{4}-\d\d-\d\d), (?P<commit>[0-9a-f]{12,40})\)$")


@dataclass(frozen=True, slots=True)
class Release:
    version: str
    day: str
    commit: str
    notes: str


def releases(changelog: str) -> list[Release]:
    """The releases that name their commit, the newest first."""
    return [
        Release(**found.groupdict(), notes=changelog[found.end() :].split("\n## ", 1)[0].strip())
        for found in HEADING.finditer(changelog)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("newest", help="print the newest version and its commit; nothing if there is none")
    commands.add_parser("notes", help="print what the changelog says of a version").add_argument("version")
    arguments = parser.parse_args()
    found = releases(CHANGELOG.read_text(encoding="utf-8"))
    if arguments.command == "newest":
        if found:
            print(found[0].version, found[0].commit)
        return
    for release in found:
        if release.version == arguments.version:
            print(release.notes)
            return
    raise SystemExit(f"CHANGELOG.md has no release {arguments.version}.")


if __name__ == "__main__":
    main()
