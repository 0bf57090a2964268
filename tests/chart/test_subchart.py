"""The chart as a dependency of another one."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.chart.tools import CHART, KEY, Object, RenderError, objects_of, template

pytestmark = pytest.mark.parametrize("helm", ["HELM", "HELM4"])

DEPENDENCY = {"name": "plinth", "version": "0.1.0", "condition": "plinth.enabled", "tags": ["backend"]}


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """An umbrella chart."""
    parent = tmp_path / "shop"
    shutil.copytree(CHART, parent / "charts" / "plinth")
    chart = {"apiVersion": "v2", "name": "shop", "version": "1.0.0", "dependencies": [DEPENDENCY]}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(chart))
    return parent


def render(parent: Path, helm: str, values: Object, **shared: object) -> list[Object]:
    """The objects of a release of the parent, with values for the chart and for `global`."""
    own = {"secretKey": {"value": KEY}} | values
    return objects_of(template({"plinth": own, "global": shared}, name="shop", chart=parent, helm=helm))


def pull_secrets(objects: list[Object]) -> list[Object]:
    (api,) = [
        item for item in objects if item["kind"] == "Deployment" and item["metadata"]["name"] == "shop-plinth-api"
    ]
    secrets: list[Object] = api["spec"]["template"]["spec"].get("imagePullSecrets", [])
    return secrets


def test_the_condition_of_the_parent_leaves_it_out(parent: Path, helm: str) -> None:
    assert render(parent, helm, {"enabled": True})
    assert render(parent, helm, {"enabled": False}) == []


def test_disabled_without_a_condition_is_refused(helm: str) -> None:
    with pytest.raises(RenderError, match=r"enabled is false\..*\n +dependencies:\n.*\n +condition: plinth\.enabled"):
        template({"enabled": False}, helm=helm)


def test_keys_that_others_put_into_global_are_theirs(parent: Path, helm: str) -> None:
    others = {
        "storageClass": "fast",
        "security": {"allowInsecureImages": True},
        "postgresql": {"auth": {"existingSecret": "db"}},
        "image": {"tag": "1.2.3"},
        "env": [{"name": "REGION", "value": "eu"}],
        "domain": "example.com",
        "replicas": 3,
        "labels": None,
    }
    assert render(parent, helm, {}, **others) == render(parent, helm, {})


def test_null_in_global_is_nothing(parent: Path, helm: str) -> None:
    assert render(parent, helm, {}, imageRegistry=None, imagePullSecrets=None) == render(parent, helm, {})


def test_pull_secrets_are_names_or_objects_and_each_is_there_once(parent: Path, helm: str) -> None:
    own = {"image": {"pullSecrets": ["own", {"name": "shared"}]}}
    objects = render(parent, helm, own, imagePullSecrets=["shared", {"name": "other"}])
    assert pull_secrets(objects) == [{"name": "shared"}, {"name": "other"}, {"name": "own"}]


def test_two_dependencies_under_different_names_share_nothing(parent: Path, helm: str) -> None:
    chart = yaml.safe_load((parent / "Chart.yaml").read_text())
    chart["dependencies"] = [{"name": "plinth", "version": "0.1.0", "alias": alias} for alias in ("orders", "stock")]
    (parent / "Chart.yaml").write_text(yaml.safe_dump(chart))
    key = {"secretKey": {"value": KEY}}
    items = objects_of(template({"orders": key, "stock": key}, name="shop", chart=parent, helm=helm))
    names = [(item["kind"], item["metadata"]["name"]) for item in items]
    assert len(names) == len(set(names))
    assert ("Deployment", "shop-orders-api") in names
    assert ("Deployment", "shop-stock-api") in names


def test_alias_may_be_what_no_object_may_be_called(parent: Path, helm: str) -> None:
    """Keys of values tend to be in camel case, or with an underscore."""
    aliases = ("ordersApi", "ordersapi", "orders_api", "orders-api", "O" * 70)
    chart = yaml.safe_load((parent / "Chart.yaml").read_text())
    chart["dependencies"] = [{"name": "plinth", "version": "0.1.0", "alias": alias} for alias in aliases]
    (parent / "Chart.yaml").write_text(yaml.safe_dump(chart))
    items = objects_of(
        template({alias: {"secretKey": {"value": KEY}} for alias in aliases}, name="7", chart=parent, helm=helm)
    )
    names = [(item["kind"], item["metadata"]["name"]) for item in items]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name) for _, name in names)
    assert all(len(text) <= 63 for item in items for text in item["metadata"]["labels"].values())
