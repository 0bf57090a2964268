"""PERMISSIONS: which permissions a role or a scope has."""

import pytest

from plinth.cli.config import effective_configuration
from plinth.settings import PlatformSettings
from tests.support.settings import isolated_problems

EXPECTED = (("admin", ("orders:write", "orders:read")), ("viewer", ("orders:read",)))


@pytest.mark.parametrize(
    "value",
    [
        "admin=orders:write orders:read,viewer=orders:read",
        " admin = orders:write   orders:read ,\n viewer=orders:read, ",
        "admin=orders:write,viewer=orders:read,admin=orders:read",
        '{"admin": ["orders:write", "orders:read"], "viewer": ["orders:read"]}',
        {"admin": ["orders:write", "orders:read"], "viewer": ["orders:read"]},
    ],
)
def test_mapping_is_written_as_text_or_as_json(value: object) -> None:
    assert PlatformSettings.isolated(PERMISSIONS=value).PERMISSIONS == EXPECTED


def test_role_with_other_characters_is_written_in_json() -> None:
    value = '{"CN=Admins,OU=Orders": ["orders:write"], "Order Admin": ["https://example.com/Orders.Write"]}'
    assert PlatformSettings.isolated(PERMISSIONS=value).PERMISSIONS == (
        ("CN=Admins,OU=Orders", ("orders:write",)),
        ("Order Admin", ("https://example.com/Orders.Write",)),
    )


def test_nothing_is_granted_by_default() -> None:
    assert PlatformSettings.isolated().PERMISSIONS == ()
    assert PlatformSettings.isolated(PERMISSIONS="").PERMISSIONS == ()


def test_mapping_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("admin=orders:write", '{"admin": ["orders:write"]}'):
        monkeypatch.setenv("PERMISSIONS", value)
        assert PlatformSettings(_env_file=None).PERMISSIONS == (("admin", ("orders:write",)),)


@pytest.mark.parametrize(
    "value",
    [
        "admin",
        "admin=",
        "=orders:write",
        "admin=orders:write viewer=orders:read",  # a comma is missing
        "admin=orders:*",  # there are no wildcards
        'admin=orders:"write"',
        "admin=orders:wrîte",
        "admin=" + "a" * 201,
        "{",
        "[]",
        '["admin"]',
        '{"admin": "orders:write orders:read"}',
        '{"admin": []}',
        '{"admin": ["orders:write"], "admin": ["orders:read"]}',  # the first would be lost
        '{"admin": ' * 100_000,
        '{"": ["orders:write"]}',
        '{"admin": ["orders write"]}',
        '{"admin": [["orders:write"]]}',
        '{"admin": {"orders": "write"}}',
        '{"admin": [7]}',
    ],
)
def test_malformed_mapping_stops_the_start_and_is_not_quoted(value: str) -> None:
    (problem,) = isolated_problems(PERMISSIONS=value)
    assert problem.startswith("PERMISSIONS (argument): expected ")
    assert "orders" not in problem


def test_config_check_prints_the_mapping_as_it_is_written() -> None:
    settings = PlatformSettings.isolated(PERMISSIONS=dict(EXPECTED))
    (row,) = [row for row in effective_configuration(settings) if row.name == "PERMISSIONS"]
    assert row.value == "admin=orders:write orders:read,viewer=orders:read"
