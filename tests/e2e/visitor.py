"""A pod from which a test looks at the release."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.cluster import image
from tests.e2e.release import RESTRICTED_CONTAINER, RESTRICTED_POD, Release, until


@contextmanager
def visitor(release: Release, labels: dict[str, str]) -> Iterator[str]:
    """A pod in the release's namespace that sleeps, by its name; with labels it is one of the release."""
    name = "visitor"
    if labels:
        labels = labels | {"app.kubernetes.io/name": "plinth", "app.kubernetes.io/instance": "plinth"}
    container = {"name": name, "image": image("1"), "command": ["sleep", "600"], **RESTRICTED_CONTAINER}
    release.core.create_namespaced_pod(
        release.namespace,
        {"metadata": {"name": name, "labels": labels}, "spec": {**RESTRICTED_POD, "containers": [container]}},
    )
    try:
        until(lambda: release.phase(name) == "Running", "the visitor is there", within=30)
        yield name
    finally:
        release.remove_pod(name)
