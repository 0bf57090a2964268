"""The settings of /ops: what goes together, and what does not."""

from typing import Any

import pytest

from plinth.settings import PlatformSettings
from tests.support.settings import PRODUCTION, isolated_problems

CUSTOM = {
    "AUTH_PROVIDER": "custom",
    "OIDC_ISSUER": "https://id.example.com/",
    "OIDC_AUDIENCE": "https://api.example.com",
}
CLIENT = {"OPS_CLIENT_ID": "ops", "OPS_CLIENT_SECRET": "7f3a"}


@pytest.mark.parametrize(
    "values",
    [
        {"OPS_ENABLED": True},
        {"OPS_ENABLED": True, **CUSTOM, **CLIENT},
        {**CUSTOM, **CLIENT},  # switched off for a while
        {**CUSTOM},
    ],
)
def test_settings_that_go_together_are_taken(values: dict[str, Any]) -> None:
    assert PlatformSettings.isolated(**values).OPS_ENABLED is values.get("OPS_ENABLED", False)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({**CUSTOM}, ["OPS_CLIENT_ID", "OPS_CLIENT_SECRET"]),
        ({**CUSTOM, "OPS_CLIENT_ID": "ops"}, ["OPS_CLIENT_SECRET"]),
        (CLIENT, ["OPS_CLIENT_ID", "OPS_CLIENT_SECRET"]),
        ({**CUSTOM, **CLIENT, "OPS_SCOPES": "profile,email"}, ["OPS_SCOPES"]),
        ({"OPS_SESSION_HOURS": 0}, ["OPS_SESSION_HOURS"]),
        ({"OPS_SESSION_HOURS": 200}, ["OPS_SESSION_HOURS"]),
        ({"OPS_TRACE_URL": "https://jaeger.example.com/trace/"}, ["OPS_TRACE_URL"]),
        ({"OPS_TRACE_URL": "javascript:alert({trace_id})"}, ["OPS_TRACE_URL"]),
    ],
)
def test_wrong_combination_is_refused_by_name(values: dict[str, Any], names: list[str]) -> None:
    found = isolated_problems(OPS_ENABLED=True, **values)
    assert [problem.partition(" ")[0] for problem in found] == names
    assert not any("7f3a" in problem for problem in found)


def test_deployment_refuses_the_secret_of_the_examples() -> None:
    values = {"OPS_ENABLED": True, "OPS_CLIENT_ID": "ops", "OPS_CLIENT_SECRET": "the-secret"}
    (found,) = isolated_problems(**PRODUCTION, **values)
    assert found.startswith("OPS_CLIENT_SECRET (argument): expected a secret of its own")
