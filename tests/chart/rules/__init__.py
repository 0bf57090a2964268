"""What every release has to keep, whatever its values: functions that take a release and assert.

Tests run them over rendered releases, and the mutation run over damaged ones.
"""

from collections.abc import Callable

from tests.chart.cases import Release
from tests.chart.rules import cluster, entrances, names, network, observability, pods, scaling, servers, workloads

Rule = Callable[[Release], None]

RULES: list[Rule] = [
    rule
    for module in (names, pods, workloads, servers, cluster, network, scaling, entrances, observability)
    for name, rule in vars(module).items()
    if callable(rule) and getattr(rule, "__module__", "") == module.__name__ and not name.startswith("_")
]
