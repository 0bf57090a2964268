"""The rules as the chart renders them: sound, and every alert fires when it should and only then."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import Object, merged, run, tool
from tests.observability.queries import VALUES, all_groups, groups, read

CASES = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))
ALERTS: list[Object] = [rule for group in groups() for rule in group["rules"] if "alert" in rule]

_OTHER_VALUES: Object = {
    "fullnameOverride": "shop",
    "metrics": {
        "rules": {
            "runbookUrl": "https://runbooks.example.com",
            "objectives": {
                "availability": {"percent": 95, "minimum": 1000000},
                "latency": {"percent": 99.99, "seconds": 0.005, "exceptRoutes": ""},
                "timeliness": {"percent": 97.5, "seconds": 1800},
            },
        }
    },
}


def _name(alert: Object) -> str:
    return f"{alert['alert']} {alert['labels'].get('window', '')}".strip()


def _write(folder: Path, found: list[Object]) -> list[str]:
    """One file for each group, as the tests name them."""
    for group in found:
        (folder / f"{group['name']}.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    return [str(folder / f"{group['name']}.yaml") for group in found]


@pytest.mark.parametrize("values", [VALUES, merged(VALUES, _OTHER_VALUES)], ids=["default", "other values"])
def test_rules_are_sound(values: Object, tmp_path: Path) -> None:
    found = all_groups(values)
    done = run(tool("PROMTOOL"), "check", "rules", "--lint=all", "--lint-fatal", *_write(tmp_path, found))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "${" not in yaml.safe_dump(found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_alerts_fire_when_they_should_and_only_then(case: Path, tmp_path: Path) -> None:
    _write(tmp_path, all_groups())
    (tmp_path / "case.yaml").write_text(case.read_text())
    done = run(tool("PROMTOOL"), "test", "rules", "case.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_alerts_fire_on_series_as_a_collector_rewrites_them(case: Path, tmp_path: Path) -> None:
    """Its exporters write bounds without .0 and name the scope. Prometheus 3 and the service write them with it."""
    _write(tmp_path, all_groups())
    tests = yaml.load(case.read_text(), yaml.BaseLoader)  # texts alone: else 0x60, sixty zeros, is a number
    for test in tests["tests"]:
        for series in test["input_series"]:
            series["series"] = _as_a_collector_writes(series["series"])
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(tests, sort_keys=False))
    done = run(tool("PROMTOOL"), "test", "rules", "case.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def _as_a_collector_writes(series: str) -> str:
    scope = 'otel_scope_name="prometheusreceiver",otel_scope_version="0.150.0"'
    name, _, labels = series.rstrip("}").partition("{")
    return re.sub(r'le="(\d+)\.0"', r'le="\1"', f"{name}{{{labels}{',' if labels else ''}{scope}}}")


@pytest.mark.parametrize("seconds", [1, 10, 0.5, 2.5])
@pytest.mark.parametrize("spelling", ["{}", "{:.1f}"])
def test_a_bound_is_found_in_either_spelling(seconds: float, spelling: str, tmp_path: Path) -> None:
    found = all_groups(merged(VALUES, {"metrics": {"rules": {"objectives": {"latency": {"seconds": seconds}}}}}))
    _write(tmp_path, found)
    target = 'namespace="shop",pod="plinth-api-1",http_route="/",http_response_status_code="200"'
    name = "http_server_request_duration_seconds"
    bounds = [spelling.format(seconds), str(seconds * 100), "0.05", "+Inf"]
    series = [{"series": f"{name}_count{{{target}}}", "values": "0+300x20"}]
    series += [{"series": f'{name}_bucket{{{target},le="{bound}"}}', "values": "0+240x20"} for bound in bounds]
    rate = 'plinth:slo_bad:rate5m{namespace="shop", release="plinth", slo="latency"}'
    check = {"expr": rate, "eval_time": "10m", "exp_samples": [{"labels": rate, "value": 1}]}
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [check]}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({"rule_files": ["plinth-objectives.yaml"], "tests": [test]}))
    done = run(tool("PROMTOOL"), "test", "rules", "case.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("slo", ["latency", "timeliness"])
def test_a_ruler_may_give_what_it_records_labels_of_its_own(slo: str, tmp_path: Path) -> None:
    """As Thanos does, and Google's: a sum of raw series has none of them."""
    found = all_groups()
    for group in found:
        rules = [rule for rule in group["rules"] if rule.get("labels", {}).get("slo") == slo]
        group["rules"] = [rule for rule in rules if rule.get("record") == "plinth:slo_bad:rate5m"]
    _write(tmp_path, [group for group in found if group["rules"]])
    target = 'namespace="shop",pod="plinth-api-1",http_response_status_code="200",http_route="/"'
    of = {"latency": "http_server_request_duration_seconds", "timeliness": "plinth_job_wait_seconds"}[slo]
    recorded = f'plinth:slo_total:rate5m{{namespace="shop",release="plinth",slo="{slo}",cluster="east",replica="0"}}'
    series = [{"series": recorded, "values": "5x20"}]
    series += [{"series": f'{of}_bucket{{{target},le="{le}"}}', "values": "0+240x20"} for le in ("0.5", "60.0")]
    bad = f'plinth:slo_bad:rate5m{{namespace="shop", release="plinth", slo="{slo}"}}'
    check = {"expr": bad, "eval_time": "10m", "exp_samples": [{"labels": bad, "value": 1}]}
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [check]}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({"rule_files": ["plinth-objectives.yaml"], "tests": [test]}))
    done = run(tool("PROMTOOL"), "test", "rules", "case.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("number", range(len(ALERTS)), ids=lambda number: _name(ALERTS[number]))
def test_every_alert_is_seen_to_fire_and_not_to(number: int) -> None:
    alert = ALERTS[number]
    fires, lets_pass = False, False
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for check in test["alert_rule_test"]:
                if check["alertname"] == alert["alert"]:
                    fired = any(_is_of(alert, expected["exp_labels"]) for expected in check["exp_alerts"])
                    fires |= fired
                    lets_pass |= not fired
    assert fires, "no test lets it fire"
    assert lets_pass, "no test has it stay quiet"


def test_budgets_of_every_objective_are_seen_to_burn_at_every_speed() -> None:
    seen = {
        (labels["slo"], labels["window"])
        for case in CASES
        for test in yaml.safe_load(case.read_text())["tests"]
        for check in test["alert_rule_test"]
        for labels in (expected["exp_labels"] for expected in check["exp_alerts"])
        if "window" in labels
    }
    windows = {"1h", "6h", "1d", "3d"}
    assert seen == {(slo, window) for slo in ("availability", "latency", "timeliness") for window in windows}


def test_budgets_are_judged_over_the_windows_of_the_book() -> None:
    """And each guard multiplies the rates by the seconds of its own steps."""
    found = {}
    for alert in ALERTS:
        if alert["alert"] == "PlinthBudgetBurn":
            (long, factor), (short, again) = re.findall(r"ratio_rate(\w+){[^}]*} > ([0-9.]*)", alert["expr"])
            ((over, step, seconds),) = re.findall(r"\[(\w+):(\d+)m\]\) \* (\d+)", alert["expr"])
            assert factor == again
            assert over == long == alert["labels"]["window"]
            assert int(seconds) == int(step) * 60
            found[long] = short, float(factor), alert["labels"]["severity"]
    assert found == {
        "1h": ("5m", 14.4, "critical"),
        "6h": ("30m", 6, "critical"),
        "1d": ("2h", 3, "warning"),
        "3d": ("6h", 1, "warning"),
    }


def test_a_test_that_fails_would_be_seen(tmp_path: Path) -> None:
    _write(tmp_path, groups())
    text = next(case for case in CASES if case.stem == "certificates").read_text()
    (tmp_path / "case.yaml").write_text(text.replace("values: 604800x120", "values: 6048000x120"))
    done = run(tool("PROMTOOL"), "test", "rules", "case.yaml", cwd=tmp_path)
    assert "got:[" in done.stdout + done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("alert", ALERTS, ids=_name)
def test_an_alert_says_what_and_how_bad_and_what_to_do(alert: Object) -> None:
    labels, annotations = alert["labels"], alert["annotations"]
    assert labels["severity"] in ("critical", "warning")
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert all(text == text.strip() and "\n" not in text for text in annotations.values())
    # What a text names of the alert has to be there: what the query groups by, and what the rule adds.
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(annotations.values())))
    assert named <= read(alert["expr"]).grouping | labels.keys() | _of_recorded(alert)


def test_pages_are_few_and_symptoms() -> None:
    pages = {alert["alert"] for alert in ALERTS if alert["labels"]["severity"] == "critical"}
    assert pages == {
        "PlinthBudgetBurn",
        "PlinthDatabaseUnreachable",
        "PlinthJobsLate",
        "PlinthMetricsAbsent",
        "PlinthNoApi",
        "PlinthNoWorker",
    }


def test_alerts_on_certificates_come_with_their_value() -> None:
    names = {
        rule.get("alert") for group in groups({"metrics": {"rules": {"enabled": True}}}) for rule in group["rules"]
    }
    assert "PlinthNoWorker" in names
    assert names.isdisjoint({"PlinthCertificateExpiring", "PlinthCertificatesMissing"})


@pytest.mark.parametrize(
    ("component", "group", "alert"), [("api", "service", "PlinthNoApi"), ("worker", "jobs", "PlinthNoWorker")]
)
def test_pods_that_nobody_asked_for_are_not_missed(component: str, group: str, alert: str, tmp_path: Path) -> None:
    """But where there should be some, the number of `replicas` is another's, the autoscaler's."""
    checks: list[Object] = [{"eval_time": "30m", "alertname": alert, "exp_alerts": []}]
    series = [{"series": 'plinth_workers_alive{namespace="shop",pod="plinth-api-1"}', "values": "0x120"}]
    test = {"interval": "15s", "input_series": series, "alert_rule_test": checks}
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({"rule_files": [f"plinth-{group}.yaml"], "tests": [test]}))
    fired = {}
    for scaling in ("none", "autoscaling", "keda")[: 2 if component == "api" else 3]:
        values: Object = {"replicas": 0} | ({} if scaling == "none" else {scaling: {"enabled": True}})
        _write(tmp_path, groups(merged(VALUES, {component: values})))
        fired[scaling] = run(tool("PROMTOOL"), "test", "rules", "case.yaml", cwd=tmp_path).returncode != 0
    assert fired == {scaling: scaling != "none" for scaling in fired}


def _is_of(alert: Object, labels: Any) -> bool:
    return "window" not in alert["labels"] or bool(labels["window"] == alert["labels"]["window"])


def _of_recorded(alert: Object) -> set[str]:
    return {"namespace", "release", "slo"} if "plinth:" in alert["expr"] else set()
