"""Every query of the dashboards and of the rules, with its variables filled in: to be parsed here, and to be asked of a
Prometheus that has scraped the running service by the end-to-end tests."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chart.tools import CHART, Object, objects_of, template

__all__ = [
    "NEEDS_OTHERS",
    "NEEDS_TROUBLE",
    "Query",
    "Selector",
    "all_groups",
    "all_queries",
    "dashboards",
    "groups",
    "panel_queries",
    "panels",
    "read",
    "rule_queries",
]

# With everything on that rules can have.
VALUES: Object = {"metrics": {"rules": {"enabled": True, "certManager": True}, "podMonitor": {"enabled": True}}}


# Series that a service in good health has none of, and those that need what a try-out lacks: an identity provider,
# cert-manager. With a real Prometheus make trouble first, or leave them out.
NEEDS_TROUBLE = ("plinth_http_failures_total", "plinth_jobs_reaped_total", "plinth_db_errors_total")
NEEDS_OTHERS = ("plinth_jwks_", "certmanager_")


@dataclass(frozen=True)
class Query:
    where: str
    """The dashboard and the panel, or the alert or recorded series."""
    expr: str


@dataclass
class Selector:
    """One choice of series in a query. None of them may be empty for ever."""

    metric: str
    labels: list[str] = field(default_factory=list)
    text: str = ""


@dataclass
class Parts:
    """What a query is made of, as far as names go."""

    selectors: list[Selector] = field(default_factory=list)
    grouping: set[str] = field(default_factory=set)


def dashboards() -> dict[str, Object]:
    """The platform's dashboards: a service puts its own beside them."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}
    return {name: dashboard for name, dashboard in found.items() if dashboard["uid"].startswith("plinth-")}


def panels(dashboard: Object) -> list[Object]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_queries(
    namespace: str = "shop", release: str = "plinth", *, pod: str = ".+", rate_interval: str = "5m"
) -> list[Query]:
    """The queries of all panels, as Grafana sends them."""
    found = []
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                expr = target["expr"].replace("$__rate_interval", rate_interval)
                expr = expr.replace("$namespace", namespace).replace("$release", release).replace("$pod", pod)
                found.append(Query(f"{name}: {panel['title']} ({target['refId']})", expr))
    return found


def groups(values: Object | None = None) -> list[Object]:
    """The platform's groups of rules: a service puts its own beside them."""
    return [group for group in all_groups(values) if group["name"].startswith("plinth-")]


def all_groups(values: Object | None = None) -> list[Object]:
    """The groups of rules of a rendered release `plinth` in the namespace `shop`."""
    manifest = template(
        VALUES if values is None else values, options=("--show-only=templates/observability/rules.yaml",)
    )
    (item,) = objects_of(manifest)
    found: list[Object] = item["spec"]["groups"]
    return found


def rule_queries(found: list[Object] | None = None) -> list[Query]:
    """The expressions of all rules: of the groups given, which a Prometheus has told of, or of a rendered release."""
    return [
        Query(rule.get("alert") or rule["record"], rule["expr"])
        for group in (groups() if found is None else found)
        for rule in group["rules"]
    ]


_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]*\])|(?P<number>\d+(?:\.\d+)?[a-z]*)"""
    r"""|(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)|(?P<other>[=!]~|[=!<>]=|.)"""
)
_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset"}


def read(expr: str) -> Parts:
    """The selectors of a query, and the labels that it groups and joins by. Not a parser: promtool is one."""
    tokens = [(kind, match[0], match.end()) for match in _TOKEN.finditer(expr) if (kind := match.lastgroup) != "space"]
    parts = Parts()
    position = 0
    while position < len(tokens):
        kind, word, end = tokens[position]
        position += 1
        if kind != "name" or word in _WORDS:
            continue
        following = tokens[position][1] if position < len(tokens) else ""
        if word in _LISTS:
            if following == "(":
                position, names, _ = _enclosed(tokens, position + 1, ")")
                parts.grouping |= set(names)
        elif following == "{":
            position, names, last = _enclosed(tokens, position + 1, "}")
            parts.selectors.append(Selector(word, names, expr[end - len(word) : last]))
        elif following not in ("(", "by", "without"):
            parts.selectors.append(Selector(word, [], word))
    return parts


def _enclosed(tokens: list[Any], position: int, closing: str) -> tuple[int, list[str], int]:
    """The names up to a bracket: where it goes on, they, and where the bracket ends."""
    names = []
    while tokens[position][1] != closing:
        if tokens[position][0] == "name":
            names.append(tokens[position][1])
        position += 1
    return position + 1, names, tokens[position][2]


def all_queries() -> Iterator[Query]:
    yield from panel_queries()
    yield from rule_queries()
