"""A user's shell in a release's namespace: what the docs show runs in it as it stands."""

import os
import subprocess
from pathlib import Path

from tests.e2e.cluster import ROOT, CommandFailed
from tests.e2e.release import Release


class Shell:
    """Runs scripts at the top of the tree. kubectl, Helm and skaffold find cluster and namespace without options.

    The user's own kubeconfig and settings of skaffold are neither needed nor touched.
    """

    def __init__(self, release: Release, folder: Path) -> None:
        self.folder = folder
        kubeconfig, skaffold = folder / "kubeconfig", folder / "skaffold-config"
        kubeconfig.touch(mode=0o600)
        skaffold.write_text("global: {collect-metrics: false}\n")
        cluster = release.cluster
        self.environment = {
            **os.environ,
            **({} if cluster.kubeconfig is None else {"KUBECONFIG": cluster.kubeconfig}),
            "SKAFFOLD_CONFIG": str(skaffold),
            "SKAFFOLD_CACHE_FILE": str(folder / "skaffold-cache"),
            "SKAFFOLD_UPDATE_CHECK": "false",
            "SKAFFOLD_INTERACTIVE": "false",
            "SKAFFOLD_KUBE_CONTEXT": cluster.context,
        }
        kubeconfig.write_text(self.run(f"kubectl config view --raw --minify --flatten --context {cluster.context}"))
        self.environment["KUBECONFIG"] = str(kubeconfig)
        self.run(f"kubectl config set-context {cluster.context} --namespace {release.namespace}")
        self.run(f"kubectl config use-context {cluster.context}")

    def run(self, script: str, *, typed: str = "") -> str:
        """Run lines of bash up to the first that fails, and return their standard output.

        Raises:
            CommandFailed: with all that they have said.
        """
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=self.environment, cwd=ROOT, input=typed, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise CommandFailed(f"{script}\n{done.stdout}{done.stderr}")
        return done.stdout
