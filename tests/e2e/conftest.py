"""The cluster of the run, and a release for each file of tests.

By itself the run makes the kind cluster plinth-e2e and deletes it. E2E_CONTEXT=kind-NAME takes one that is there, made
of k8s/kind.yaml, and leaves it.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import cluster as clusters
from tests.e2e.cluster import SERVER_IMAGES, Cluster, image
from tests.e2e.release import Release, namespace


@pytest.fixture(scope="session")
def images() -> list[str]:
    """`plinth:e2e-1`, `-2`, `-3` and `-broken`, built here, and those of the servers."""
    if missing := clusters.missing_tools():
        pytest.exit(f"The end-to-end tests need {', '.join(missing)}, and it is not installed.", returncode=1)
    clusters.build_images()
    return [*map(image, ("1", "2", "3", "broken")), *SERVER_IMAGES]


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that has the images. It is made while they are built: either takes a minute or two."""
    context = os.environ.get("E2E_CONTEXT")
    with ThreadPoolExecutor() as threads:
        making = threads.submit(clusters.existing, context) if context else threads.submit(clusters.create)
        try:
            images = request.getfixturevalue("images")
            try:
                cluster = making.result()
            except ValueError as error:
                pytest.exit(str(error), returncode=1)
            cluster.load(*images)
            yield cluster
        finally:
            if not context and making.exception() is None:
                clusters.delete(making.result())


@pytest.fixture(scope="module")
def release(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Release]:
    """Version 1, installed with `--wait`. The tests of a file follow on one another: each leaves it ready."""
    with namespace(cluster, f"plinth-{request.module.__name__.rpartition('test_')[2]}") as release:
        release.install()
        yield release
