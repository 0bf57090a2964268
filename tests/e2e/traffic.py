"""Load from outside and from a pod inside, and whether the service has kept what it accepted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e import load
from tests.e2e.release import RESTRICTED_CONTAINER, RESTRICTED_POD, URL, Release, caller, until

# Half of them keep their connections, and half do not.
CALLERS = 4
# Requests a second of each caller. All together ask for less than RATE_LIMIT, which is for each of them.
RATE = 5
INSIDE_URL = "http://plinth-api/api/v1/"


@dataclass
class Traffic:
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    # When each of these requests began, in seconds since 1970.
    failed_at: list[float] = field(default_factory=list)
    # The ids that each caller was told, by its token.
    items: dict[str, list[str]] = field(default_factory=dict)
    exports: dict[str, list[str]] = field(default_factory=dict)
    slowest: float = 0

    def add(self, tokens: list[str], report: dict[str, Any]) -> None:
        self.requests += report["requests"]
        self.failures += report["failures"]
        self.failed_at += report["failed_at"]
        self.items |= dict(zip(tokens, report["items"], strict=True))
        self.exports |= dict(zip(tokens, report["exports"], strict=True))
        self.slowest = max(self.slowest, report["slowest"])

    def nothing_failed(self) -> None:
        print(f"\n{self.requests} requests, the slowest took {self.slowest:.2f} s")  # noqa: T201 - a figure to quote
        assert not self.failures, f"{len(self.failures)} of {self.requests}: {self.failures[:20]}"

    def kept(self, release: Release) -> None:
        """Every accepted item can be read, none is there twice, and every accepted export was made, once."""
        for token, accepted in self.items.items():
            assert accepted
            assert sorted(_all_items(token)) == sorted(accepted)
        exports_are_made(release, [export for exports in self.exports.values() for export in exports])


def exports_are_made(release: Release, ids: list[str], *, within: float = 60) -> None:
    """Each of these exports, and each job of theirs, has come to its end, once."""
    assert ids
    given = ",".join(f"'{export}'" for export in ids)
    ended = f"""SELECT count(*) FROM export JOIN job_history ON job_history.id = export.job_id
        WHERE export.id IN ({given}) AND job_history.state = 'succeeded' AND ready_at IS NOT NULL"""
    until(lambda: release.sql(ended) == str(len(ids)), f"{len(ids)} exports are made", within=within)
    open_jobs = f"SELECT count(*) FROM job JOIN export ON export.job_id = job.id WHERE export.id IN ({given})"
    assert release.sql(open_jobs) == "0"


@contextmanager
def traffic(
    release: Release, folder: Path, *, retry: bool = False, rate: float = RATE, callers: int = CALLERS
) -> Iterator[Traffic]:
    """Load from `callers` on each side for as long as the block runs. The figures are there when it has ended."""
    seen = Traffic()
    name = folder.name
    tokens = release.tokens(*(f"{side}-{name}-{number}" for side in ("out", "in") for number in range(callers)))
    outside, inside = tokens[:callers], tokens[callers:]
    settings = {"RETRY": "1" if retry else "0", "RATE": str(rate)}
    pod = _start_pod(release, settings | {"TOKENS": " ".join(inside)})
    stop = folder / "stop"
    process = subprocess.Popen(
        [sys.executable, load.__file__, URL, str(stop)],
        env=os.environ | settings | {"TOKENS": " ".join(outside)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield seen
        stop.touch()
        release.execute(pod, "touch", "/tmp/stop")
        said, _ = process.communicate(timeout=90)
        seen.add(outside, json.loads(said))
        until(lambda: release.phase(pod) == "Succeeded", "the load in the cluster has ended", within=90)
        # As bytes: the client takes text that looks like JSON for something else.
        log = release.core.read_namespaced_pod_log(pod, release.namespace, _preload_content=False).data
        seen.add(inside, json.loads(log))
        if seen.failures:
            seen.failures += _reasons(release)
    finally:
        process.kill()
        process.communicate()
        release.remove_pod(pod)
        release.core.delete_namespaced_config_map(pod, release.namespace)


def _reasons(release: Release) -> list[str]:
    """What the API pods that are still there have logged of requests that failed."""
    lines = []
    for pod in release.pods("api"):
        log = release.core.read_namespaced_pod_log(pod.metadata.name, release.namespace, _preload_content=False).data
        lines += [f"{pod.metadata.name}: {line}" for line in log.decode().splitlines() if '"request failed"' in line]
    return lines


def _start_pod(release: Release, environment: dict[str, str]) -> str:
    name = "load"
    script = Path(load.__file__).read_text()
    release.core.create_namespaced_config_map(
        release.namespace, {"metadata": {"name": name}, "data": {"load.py": script}}
    )
    container = {
        "name": name,
        "image": release.pods("api")[0].spec.containers[0].image,
        "command": ["python", "/load/load.py", INSIDE_URL, "/tmp/stop"],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "volumeMounts": [{"name": "load", "mountPath": "/load"}, {"name": "tmp", "mountPath": "/tmp"}],
        **RESTRICTED_CONTAINER,
    }
    release.core.create_namespaced_pod(
        release.namespace,
        {
            "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "load"}},
            "spec": {
                "restartPolicy": "Never",
                **RESTRICTED_POD,
                # Nodes may be drained under it.
                "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
                "tolerations": [{"operator": "Exists"}],
                "containers": [container],
                "volumes": [{"name": "load", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {}}],
            },
        },
    )
    until(lambda: release.phase(name) == "Running", "the load's pod runs", within=30)
    return name


def _all_items(token: str) -> list[str]:
    ids: list[str] = []
    with caller(token) as http:
        path: str | None = "items?limit=100"
        while path is not None:
            page = http.get(path).raise_for_status()
            ids += [item["id"] for item in page.json()["items"]]
            # A whole URL: httpx would put its path behind that of the client.
            path = str(page.url.join(page.links["next"]["url"])) if "next" in page.links else None
    return ids
