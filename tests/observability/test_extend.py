"""The alert rule and the dashboard of `docs/extend.md` take no edit of a file of the platform."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.tools import CHART, ROOT, RenderError, objects_of, template
from tests.support.pages import Copy, copy_of_the_project, files_of

PAGE = ROOT / "docs" / "extend.md"
VALUES = {"metrics": {"rules": {"enabled": True}, "dashboards": {"enabled": True}}}


@pytest.fixture(scope="module")
def copy() -> Iterator[Copy]:
    with copy_of_the_project() as copy:
        copy.type(PAGE)
        yield copy


def test_the_page_adds_files_and_edits_none() -> None:
    files = files_of(PAGE)
    assert {Path(path).suffix for path in files} == {".py", ".yaml", ".json"}
    assert [path for path in files if (ROOT / path).exists()] == []


def test_a_rule_file_and_a_dashboard_become_part_of_the_release(copy: Copy) -> None:
    objects = objects_of(template(VALUES, chart=copy.folder / "charts" / "plinth"))
    (rules,) = [item for item in objects if item["kind"] == "PrometheusRule"]
    (group,) = [group for group in rules["spec"]["groups"] if group["name"] == "shipping"]
    assert 'namespace="shop",pod=~"plinth-(api|worker)-.+"' in group["rules"][0]["expr"]
    assert "${" not in yaml.safe_dump(group)
    (dashboard,) = [item for item in objects if item["metadata"]["name"] == "plinth-dashboard-shipping"]
    assert '"uid": "shipping"' in dashboard["data"]["plinth-shipping.json"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("groups:\n  - name: a\n   rules: []\n", "yaml: line"),
        ("group:\n  - {name: a, rules: []}\n", "groups: [{name, rules}]"),
        ("", "groups: [{name, rules}]"),
    ],
)
def test_a_rule_file_of_which_no_alert_would_fire_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    chart = tmp_path / "plinth"
    shutil.copytree(CHART, chart)
    (chart / "rules" / "shipping.yaml").write_text(text)
    with pytest.raises(RenderError, match=r"rules/shipping\.yaml has no groups of rules") as refused:
        template(VALUES, chart=chart)
    assert reason in str(refused.value)


def test_the_tests_of_the_chart_pass_beside_them(copy: Copy) -> None:
    """The alert's own test among them."""
    slow = "not budgets and not pods_that_nobody_asked_for and not test_extend"
    options = ("-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib -rA", "-k", slow)
    report = copy.run("pytest", *options, "tests/observability", "tests/chart/test_rules.py")
    assert "test_alerts_fire_when_they_should_and_only_then[shipping]" in report
