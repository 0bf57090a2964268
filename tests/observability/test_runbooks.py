"""Every alert leads to a page that says what to look at and what to type."""

import re
from pathlib import Path

import click
import pytest
import yaml

from plinth.cli import main
from tests.chart.tools import ROOT, Object, run, tool
from tests.observability.contract import KNOWN
from tests.observability.queries import dashboards, groups, panels, read

FOLDER = ROOT / "docs" / "runbooks"
# The platform's: a service puts the pages of its own alerts beside them.
NAMES = ("README.md", "dependencies.md", "jobs.md", "objectives.md", "service.md")
PAGES = {name: (FOLDER / name).read_text() for name in NAMES}
ALERT_CASES = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))
SLOS = ("availability", "latency", "timeliness")
ALERTS: list[Object] = [rule for group in groups() for rule in group["rules"] if "alert" in rule]
# `page.md#anchor` of each, as the alert's own labels fill it in.
TARGETS = sorted(
    {
        alert["annotations"]["runbook_url"].replace("{{ $labels.slo }}", slo).removeprefix("docs/runbooks/")
        for alert in ALERTS
        for slo in SLOS
    }
)
PANELS = {
    f"{dashboard['title']}: {panel['title']}" for dashboard in dashboards().values() for panel in panels(dashboard)
}


def sections(page: str) -> dict[str, str]:
    """The text under each heading, by its anchor."""
    parts = re.split(r"^## (.+)$", PAGES[page], flags=re.MULTILINE)
    return {name.lower().replace(" ", "-"): text for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _section(target: str) -> str:
    page, _, anchor = target.partition("#")
    assert anchor in sections(page), f"no heading for #{anchor} in {page}"
    return sections(page)[anchor]


def _blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("target", TARGETS)
def test_an_alert_has_a_section_that_names_the_panel_the_query_and_the_command(target: str) -> None:
    text = _section(target)
    (panel,) = re.findall(r"^\*\*Panel:\*\* (.+)$", text, re.MULTILINE)
    assert panel in PANELS or (panel.startswith("none: ") and "#plinthcertificate" in target)
    assert len(_blocks("promql", text)) == 1
    (commands,) = _blocks("sh", text)
    assert "kubectl" in commands
    assert "**It ends** " in text


@pytest.mark.parametrize("target", TARGETS)
def test_panels_are_named_as_they_are_called(target: str) -> None:
    titles = {panel.partition(": ")[2] for panel in PANELS}
    for name in re.findall(r"panels? ((?:\*[A-Z][^*]+\*(?: and )?)+)", _section(target).replace("\n", " ")):
        assert set(re.findall(r"\*([^*]+)\*", name)) <= titles


def test_queries_can_be_parsed_and_ask_for_what_there_is(tmp_path: Path) -> None:
    queries = [query for target in TARGETS for query in _blocks("promql", _section(target))]
    assert len(queries) == len(TARGETS)
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = run(tool("PROMTOOL"), "check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    for query in queries:
        parts = read(query)
        assert parts.selectors
        for selector in parts.selectors:
            assert set(selector.labels) <= KNOWN[selector.metric], selector.text
            assert "namespace" in selector.labels
            assert parts.grouping <= KNOWN[selector.metric]


def test_commands_of_plinth_exist() -> None:
    found = {
        line.strip()
        for text in PAGES.values()
        for line in re.findall(r"(?:-- |`)plinth ((?:jobs|schedules|workers|migrate|config)[^\n`|]*)", text)
    }
    assert len(found) > 8
    for line in found:
        words = line.split()
        command: click.Command = main
        context = click.Context(main)
        while isinstance(command, click.Group) and words:
            subcommand = command.get_command(context, words[0])
            assert subcommand is not None, f"no command plinth {line}"
            command = subcommand
            words.pop(0)
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, f"plinth {line}"


def test_the_list_of_alerts_is_whole() -> None:
    linked = set(re.findall(r"\]\((\w+\.md#\w+)\)", PAGES["README.md"]))
    assert linked == set(TARGETS)
    severities: dict[str, set[str]] = {}
    for alert in ALERTS:
        severities.setdefault(alert["alert"], set()).add(alert["labels"]["severity"])
    for line in PAGES["README.md"].splitlines():
        if match := re.match(r"\| \[(\w+)\][^|]* \| ([a-z, ]+) \|", line):
            assert set(match[2].split(", ")) == severities[match[1]], line


def test_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            path, _, anchor = link.partition("#")
            file = (FOLDER / path).resolve() if path else FOLDER / page
            assert file.is_file(), f"{page}: {link}"
            if anchor:
                assert anchor in sections(file.name), f"{page}: {link}"


def test_every_section_is_an_alert_s() -> None:
    found = {f"{page}#{anchor}" for page in PAGES if page != "README.md" for anchor in sections(page)}
    assert found == set(TARGETS)


def test_the_inhibitions_leave_one_notification_of_a_full_burn() -> None:
    (text,) = _blocks("yaml", PAGES["README.md"])
    rules = yaml.safe_load(text)["inhibit_rules"]
    (case,) = [case for case in ALERT_CASES if case.stem == "budgets"]
    burns = [
        [expected["exp_labels"] | {"alertname": check["alertname"]} for expected in check["exp_alerts"]]
        for test in yaml.safe_load(case.read_text())["tests"]
        for check in test["alert_rule_test"]
    ]
    assert max(map(len, burns)) > 5
    for firing in burns:
        left = [
            alert for alert in firing if not any(_inhibits(rule, other, alert) for rule in rules for other in firing)
        ]
        assert sorted(alert["slo"] for alert in left) == sorted({alert["slo"] for alert in firing})


def _inhibits(rule: Object, source: Object, target: Object) -> bool:
    same = all(source.get(label) == target.get(label) for label in rule["equal"])
    return same and _matches(rule["source_matchers"], source) and _matches(rule["target_matchers"], target)


def _matches(matchers: list[str], alert: Object) -> bool:
    found = [re.fullmatch(r'(\w+)(=~?)"(.*)"', matcher) for matcher in matchers]
    assert all(found)
    return all(re.fullmatch(match[3], str(alert.get(match[1]))) for match in found if match)
