"""What each package takes of the memory of an API process and of a worker, before the first request or job.

    python bench/memory.py

A package's share is the growth of the resident memory while its modules are imported, without those that they import.
"""
# ruff: noqa: E402 - the path comes first, because of this folder's http.py

import sys
from pathlib import Path

# A script's own folder comes first on its path, and there `http.py` would hide the standard library's `http`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import json
import os
import subprocess
from collections import Counter
from importlib import import_module

PROCESSES = {
    "API": ("plinth.cli", "app.main", "plinth.api.process", "uvicorn", "uvloop", "plinth.http.protocol"),
    "worker": ("plinth.cli", "app.jobs", "plinth.jobs.engine.worker", "uvloop"),
}
# Of the standard library and of small packages there is one line.
SHOWN = 0.5


def resident() -> int:
    """Bytes of resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(modules: list[str]) -> dict[str, float]:
    """Import modules in this process. Returns the MB (10^6 bytes) of each package, and those of the interpreter."""
    import _frozen_importlib  # where `import` itself looks the function up

    load = _frozen_importlib._load_unlocked  # type: ignore[attr-defined]
    taken: Counter[str] = Counter({"the interpreter": resident()})
    inner = [0]

    def watched(spec):  # type: ignore[no-untyped-def]
        before = resident()
        inner.append(0)
        try:
            return load(spec)
        finally:
            grown, within = resident() - before, inner.pop()
            inner[-1] += grown
            taken[spec.name.partition(".")[0]] += grown - within

    _frozen_importlib._load_unlocked = watched  # type: ignore[attr-defined]
    for module in modules:
        import_module(module)
    return {name: taken[name] / 1e6 for name in taken} | {"in all": resident() / 1e6}


def main() -> None:
    if names := sys.argv[1:]:
        json.dump(measure(names), sys.stdout)
        return
    env = {**os.environ, "ENVIRONMENT": "test", "REDIS_URL": "redis://localhost"}
    found = {}
    for process, modules in PROCESSES.items():
        command = [sys.executable, __file__, *modules]
        found[process] = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    rows: dict[str, Counter[str]] = {}
    for process, taken in found.items():
        for name, mb in taken.items():
            standard = name in sys.stdlib_module_names
            row = "the standard library" if standard else name if mb >= SHOWN else "smaller packages"
            rows.setdefault(row, Counter())[process] += mb
    print(f"| MB | {' | '.join(found)} |\n| --- |" + " ---: |" * len(found))
    for name, row in sorted(rows.items(), key=lambda named: -max(named[1].values())):
        print(f"| {name} | {' | '.join(f'{row[process]:.1f}' for process in found)} |")


main()
