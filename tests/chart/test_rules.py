"""Every rule holds in every case."""

import pytest

from tests.chart.cases import CASES, release
from tests.chart.rules import RULES, Rule


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.__module__.rpartition('.')[2]}.{rule.__name__}")
def test_rule(rule: Rule, case: str) -> None:
    rule(release(case))
