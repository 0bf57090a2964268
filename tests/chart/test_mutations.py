"""The rules are tested themselves: rendered objects are damaged one part at a time, and a rule has to see it."""

import pytest

from tests.chart.cases import Release, release
from tests.chart.damage import mutants
from tests.chart.rules import RULES, Rule

# Between them everything the chart can render.
_CASES = ("default", "production", "full", "cloudnativepg", "pooled")
_LEAST = 0.95


def _caught(rules: list[Rule], damaged: Release) -> bool:
    """Whether a rule breaks. The one that did comes first from now on: neighbours tend to be seen by the same."""
    for position, rule in enumerate(rules):
        try:
            rule(damaged)
        except Exception:  # noqa: BLE001 - any failure counts as noticed
            rules.insert(0, rules.pop(position))
            return True
    return False


def survivors(case: str, rules: list[Rule]) -> tuple[list[str], int]:
    """What no rule saw, and how many mutants there were."""
    whole, rules = release(case), list(rules)
    unseen, count = [], 0
    for position, item in enumerate(whole.objects):
        for what, mutant in mutants(item):
            objects = whole.objects[:position] + ([mutant] if mutant else []) + whole.objects[position + 1 :]
            count += 1
            if not _caught(rules, Release(case, whole.values, objects)):
                unseen.append(f"{item['kind']} {item['metadata']['name']}: {what}")
    return unseen, count


@pytest.mark.parametrize("case", _CASES)
def test_the_rules_see_damage(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    unseen, count = survivors(case, RULES)
    score = 1 - len(unseen) / count
    with capsys.disabled():  # the tests' output shows what they would let pass
        print(f"\n{case}: {count - len(unseen)} of {count} mutants seen ({score:.1%}); not:", *unseen, sep="\n  ")  # noqa: T201
    assert score >= _LEAST
    assert count > 500, "a run over nothing proves nothing"


def test_without_rules_nothing_is_seen() -> None:
    unseen, count = survivors("default", [])
    assert len(unseen) == count
