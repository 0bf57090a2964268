"""Labels and annotations that every object of a release bears."""

import pytest

from tests.chart.cases import FULL
from tests.chart.tools import Object, merged, objects_of, template

pytestmark = pytest.mark.parametrize("helm", ["HELM", "HELM4"])

COMMON: Object = {
    "commonLabels": {"cost-center": "42", "app.kubernetes.io/name": "taken", "helm.sh/chart": "taken"},
    "commonAnnotations": {"example.com/owner": "shop", "example.com/pod": "common"},
}


def rendered(values: Object, helm: str) -> list[Object]:
    """The chart's own objects, with everything in them that can be."""
    items = objects_of(template(merged(FULL, values | {"extraObjects": []}), helm=helm))
    assert len({item["kind"] for item in items}) > 15
    return items


def test_every_object_and_every_pod_has_the_common_labels(helm: str) -> None:
    for item in rendered(COMMON, helm):
        pod = item.get("spec", {}).get("template", {}).get("metadata", item["metadata"])
        for labels in (item["metadata"]["labels"], pod["labels"]):
            assert labels["cost-center"] == "42", item["kind"]
            assert labels["app.kubernetes.io/name"] == "plinth"
        assert item["metadata"]["labels"]["helm.sh/chart"].startswith("plinth-")


def test_selectors_have_none_of_them(helm: str) -> None:
    """They cannot be changed, so a new common label would stop the upgrade."""
    selectors = [
        [item["spec"][key] for key in ("selector", "podSelector", "volumeClaimTemplates") if key in item["spec"]]
        for item in rendered(COMMON, helm)
        if "spec" in item
    ]
    assert "cost-center" not in str(selectors)


def test_every_object_has_the_common_annotations_and_its_own_over_them(helm: str) -> None:
    def by_name(values: Object) -> dict[tuple[str, str], Object]:
        # The end of a Job's name is made of what is in it, labels included.
        items = rendered(values, helm)
        return {(item["kind"], item["metadata"]["name"].partition("-migrate-")[0]): item["metadata"] for item in items}

    before, after = by_name({}), by_name(COMMON)
    assert before.keys() == after.keys()
    for name, metadata in after.items():
        assert metadata["annotations"] == COMMON["commonAnnotations"] | before[name].get("annotations", {}), name
