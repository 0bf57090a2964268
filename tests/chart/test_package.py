"""The chart as it is packed, published and tried by chart-testing."""

import re
import tarfile
from pathlib import Path

import pytest
import yaml

from app import __version__
from tests.chart.tools import CHART, NEWEST, ROOT, Object, default_values, nodes, run, template, tool

METADATA: Object = yaml.safe_load((CHART / "Chart.yaml").read_text())
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.mark.parametrize("helm", ["HELM", "HELM4"])
def test_package_has_what_a_release_needs_and_no_more(tmp_path: Path, helm: str) -> None:
    """Packed as the release workflow does it."""
    done = run(tool(helm), "package", str(CHART), "--app-version", __version__, "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("plinth-*.tgz")
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("plinth/") for name in packed.getnames()}
    assert {"Chart.yaml", "README.md", "values.yaml", "values.schema.json", "files/helm_test.py"} <= names
    assert {"templates/api/deployment.yaml", "rules/jobs.yaml", "dashboards/jobs.json"} <= names
    assert [name for name in names if name.startswith("ci/") or name.endswith(".gotmpl")] == []
    rendered = template({}, chart=archive, helm=helm)
    assert rendered == template({}, helm=helm)


def test_release_workflow_pushes_the_package_and_names_the_repository() -> None:
    workflow = (ROOT / ".github/workflows/release.yml").read_text()
    assert "helm package charts/plinth" in workflow
    assert 'helm push plinth-*.tgz "oci://$REGISTRY/charts"' in workflow
    (placeholder, written) = re.findall(r"s\|(\S+)\|(\S+)\|g\" charts/plinth/Chart.yaml", workflow)[0]
    assert placeholder == METADATA["home"]
    assert written == "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"


def test_metadata_says_what_catalogues_show() -> None:
    assert METADATA["icon"].startswith("data:image/svg+xml;base64,")
    assert {"fastapi", "worker", "keda"} <= set(METADATA["keywords"])
    assert METADATA["sources"] == [METADATA["home"]]
    assert METADATA["maintainers"]
    notes = METADATA["annotations"]
    assert notes["artifacthub.io/license"] == "MIT"
    links = yaml.safe_load(notes["artifacthub.io/links"])
    assert [link["url"] for link in links if not link["url"].startswith(METADATA["home"])] == []
    assert [link["url"] for link in links if not (ROOT / link["url"].split("/blob/main/")[1]).is_file()] == []


def test_metadata_names_the_images_of_the_values() -> None:
    values = default_values()
    images = {
        entry["name"]: entry["image"] for entry in yaml.safe_load(METADATA["annotations"]["artifacthub.io/images"])
    }
    assert images == {
        "plinth": f"{values['image']['repository']}:{METADATA['appVersion']}",
        **{
            name: f"{values[name]['image']['repository']}:{values[name]['image']['tag']}"
            for name in ("postgresql", "redis", "cloudnativepg")
        },
    }


def test_words_of_other_charts_lead_to_values() -> None:
    (table,) = re.findall(r"\| Other charts \|.*\n((?:\|.*\n)+)", (CHART / "README.md").read_text())
    known = {".".join(map(str, path)) for path, _ in nodes(default_values())}
    named = [name for line in table.splitlines()[1:] for name in re.findall("`([^`]+)`", line.split("|")[2])]
    assert len(named) > 20
    assert [name for name in named if name not in known] == []


def test_there_are_values_for_chart_testing() -> None:
    assert [path.name for path in CI_VALUES] == ["full-values.yaml", "try-out-values.yaml"]


@pytest.mark.parametrize("helm", ["HELM", "HELM4"])
@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.name)
def test_values_for_chart_testing_install(values: Path, helm: str) -> None:
    """They need nothing that chart-testing's empty cluster lacks, and no two installs have one key."""
    options = ("lint", "--strict", f"--kube-version={NEWEST}", f"--values={values}", str(CHART))
    done = run(tool(helm), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (template(yaml.safe_load(values.read_text()), apis=(), helm=helm, anew=True) for _ in range(2))
    keys = [re.findall(r"SECRET_KEY: (\S{64,})", text) for text in (first, second)]
    assert len(keys[0]) == len(keys[1]) == 1
    assert keys[0] != keys[1]
