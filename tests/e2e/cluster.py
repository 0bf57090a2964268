"""A kind cluster, the programs that speak to it, and the images in it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plinth.database.revisions import SERVICE, read_revisions

ROOT = Path(__file__).parents[2]
NAME = "plinth-e2e"
# kind's own choice of a Kubernetes unless told otherwise.
NODE_IMAGE = os.environ.get("KIND_NODE_IMAGE")
HELM = os.environ.get("HELM", "helm")
# What the chart brings along for trying out.
SERVER_IMAGES = ("postgres:17", "redis:8")


@dataclass(frozen=True)
class Cluster:
    name: str
    context: str
    # None: the user's own.
    kubeconfig: str | None

    @property
    def environment(self) -> dict[str, str]:
        """What makes programs find the cluster by its context."""
        return {} if self.kubeconfig is None else {"KUBECONFIG": self.kubeconfig}

    def helm(self, *arguments: str) -> str:
        return run(HELM, *arguments, "--kube-context", self.context, environment=self.environment)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return run("kubectl", "--context", self.context, *arguments, text=text, environment=self.environment)

    def rollback_option(self) -> str:
        """What has `helm upgrade` take back what did not come up, as this Helm calls it."""
        version = self.helm("version", "--template", "{{.Version}}")
        return "--atomic" if version.startswith("v3.") else "--rollback-on-failure"

    def load(self, *images: str) -> None:
        run("kind", "load", "docker-image", "--name", self.name, *images)


class CommandFailed(Exception):
    """A program has ended with another code than 0. The message is all that it has said."""


def run(*command: str, text: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end, with `environment` beside our own, and return its standard output.

    Raises:
        CommandFailed: with what it has said.
    """
    variables = os.environ | (environment or {})
    done = subprocess.run(command, input=text, env=variables, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def missing_tools() -> list[str]:
    return [tool for tool in ("docker", "kind", "kubectl", "skaffold", HELM) if shutil.which(tool) is None]


def existing(context: str) -> Cluster:
    """The kind cluster of a context of the user's. `make cluster-up` makes one that will do."""
    if not context.startswith("kind-"):
        raise ValueError(f"E2E_CONTEXT has to be a kind cluster's, as in kind-plinth, and is {context}.")
    return Cluster(name=context.removeprefix("kind-"), context=context, kubeconfig=None)


def create(name: str = NAME, config: str | None = None) -> Cluster:
    """A cluster of the run's own, of k8s/kind.yaml or of the text of another configuration.

    Raises:
        ValueError: There is one of its name, which may be in use.
    """
    if name in run("kind", "get", "clusters").split():
        raise ValueError(
            f"There is a cluster {name} already. To use it: E2E_CONTEXT=kind-{name}. "
            f"To be rid of it: kind delete cluster --name {name}"
        )
    kubeconfig = str(Path(tempfile.mkdtemp(prefix="plinth-e2e-")) / "kubeconfig")
    cluster = Cluster(name=name, context=f"kind-{name}", kubeconfig=kubeconfig)
    options = ["--image", NODE_IMAGE] if NODE_IMAGE else []
    text = config or (ROOT / "k8s/kind.yaml").read_text()
    try:
        run("kind", "create", "cluster", "--name", name, "--config", "-", "--kubeconfig", kubeconfig,
            "--wait", "120s", *options, text=text)  # fmt: skip
    except BaseException:
        delete(cluster)
        raise
    return cluster


def delete(cluster: Cluster) -> None:
    assert cluster.kubeconfig is not None
    run("kind", "delete", "cluster", "--name", cluster.name, "--kubeconfig", cluster.kubeconfig)
    shutil.rmtree(Path(cluster.kubeconfig).parent)


def build_images() -> None:
    """The image and its successors, each with a version and a migration of its own: `plinth:e2e-VERSION`.

    2 follows on 1; 3 and `broken` follow on 2, and the migration of `broken` fails.
    """
    run("docker", "build", "--file", "docker/Dockerfile", "--tag", image("1"), "--build-arg", "VERSION=e2e-1", ".")
    (head,) = read_revisions(ROOT / "migrations").heads(SERVICE)
    _build_next("2", base="1", after=head, sql="ALTER TABLE item ADD COLUMN e2e_note text")
    _build_next("3", base="2", after="e2e_2", sql="CREATE TABLE e2e_more (id int PRIMARY KEY)")
    _build_next("broken", base="2", after="e2e_2", sql="SELECT 1 / 0")


def image(version: str) -> str:
    return f"plinth:e2e-{version}"


def _build_next(version: str, *, base: str, after: str, sql: str) -> None:
    dockerfile = f"""
FROM {image(base)}
USER 0
RUN sed -i 's/^__version__ = .*/__version__ = "e2e-{version}"/' app/__init__.py && \\
    printf '%s\\n' 'from alembic import op' 'revision = "e2e_{version}"' 'down_revision = "{after}"' \\
    'def upgrade() -> None:' '    op.execute("{sql}")' > migrations/versions/e2e_{version}.py && \\
    python -m compileall -q --invalidation-mode unchecked-hash -f app/__init__.py migrations/versions
USER 10001:10001
"""
    run("docker", "build", "--tag", image(version), "-", text=dockerfile)
