"""What `make deploy` and skaffold give the chart on the kind cluster: k8s/values-kind.yaml and a key."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.chart.policies import OUTSIDE, Peer, allowed
from tests.chart.tools import ROOT, Object, objects_of, run, template

VALUES: Object = yaml.safe_load((ROOT / "k8s/values-kind.yaml").read_text())


_SKAFFOLD: Object = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
_RELEASES: Object = {
    ("run" if part is _SKAFFOLD else part["name"]): part["deploy"]["helm"]["releases"][0]
    for part in [_SKAFFOLD, *_SKAFFOLD["profiles"]]
}


def test_skaffold_dev_takes_no_deployed_release_away() -> None:
    """Ctrl-C uninstalls its own, which no other command has made."""
    others = [release["namespace"] for name, release in _RELEASES.items() if name != "dev"]
    assert _RELEASES["dev"]["namespace"] not in others
    ports = [release.get("setValues", {}).get("api.service.nodePort") for release in _RELEASES.values()]
    assert ports.count(_RELEASES["dev"]["setValues"]["api.service.nodePort"]) == 1


def test_skaffold_run_is_the_release_of_make_deploy_and_keeps_its_values() -> None:
    (recipe,) = re.findall(r"^deploy: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "--namespace $(SERVICE)" in recipe
    service = run("make", "--silent", "service-name").stdout.strip()
    assert (_RELEASES["run"]["name"], _RELEASES["run"]["namespace"]) == (service, service)
    assert "--reset-then-reuse-values" in recipe
    assert _SKAFFOLD["deploy"]["helm"]["flags"] == {"upgrade": ["--reset-then-reuse-values"]}


def test_the_api_is_on_the_port_that_the_cluster_maps() -> None:
    (service,) = [
        item for item in objects_of(template(VALUES)) if item["kind"] == "Service" and "api" in item["metadata"]["name"]
    ]
    mapped = [
        mapping
        for node in yaml.safe_load((ROOT / "k8s/kind.yaml").read_text())["nodes"]
        for mapping in node.get("extraPortMappings", [])
    ]
    assert service["spec"]["type"] == "NodePort"
    ports = [service["spec"]["ports"][0]["nodePort"], _RELEASES["dev"]["setValues"]["api.service.nodePort"]]
    assert [mapping["containerPort"] for mapping in mapped] == ports
    assert [(mapping["listenAddress"], mapping["hostPort"]) for mapping in mapped] == [
        ("127.0.0.1", 8080),
        ("127.0.0.1", 8081),
    ]


def test_pods_of_other_namespaces_are_left_out() -> None:
    policies = [item for item in objects_of(template(VALUES)) if item["kind"] == "NetworkPolicy"]
    labels = {"name": "plinth", "instance": "plinth", "component": "api"}
    api = Peer("shop", {f"app.kubernetes.io/{key}": value for key, value in labels.items()})
    assert allowed(policies, OUTSIDE, api, 8000)
    assert allowed(policies, Peer("shop", {}), api, 8000)
    assert not allowed(policies, Peer("elsewhere", {}), api, 8000)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy, with a folder of its own for the data."""
    (tmp_path / "scripts").mkdir()
    return Path(shutil.copy(ROOT / "scripts/secret_key.sh", tmp_path / "scripts"))


def test_a_key_is_made_once_and_only_its_owner_can_read_it(script: Path) -> None:
    first, second = (run(str(script), cwd=Path("/")) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert re.fullmatch("[0-9a-f]{64}", first.stdout)
    assert second.stdout == first.stdout
    (file,) = (script.parents[1] / ".plinth").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_values_have_the_key(script: Path) -> None:
    found = script.parents[1] / run(str(script), "--values").stdout.strip()
    assert yaml.safe_load(found.read_text()) == {"secretKey": {"value": run(str(script)).stdout}}
    assert found.stat().st_mode & 0o777 == 0o600


def test_another_folder_has_another_key(script: Path, tmp_path: Path) -> None:
    first = run(str(script)).stdout
    shutil.rmtree(tmp_path / ".plinth")
    assert run(str(script)).stdout != first
