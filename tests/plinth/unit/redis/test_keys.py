"""Each service on one Redis has a key prefix, common to its processes."""

from typing import Any

import pytest
from pydantic import Field

from notes.config import Settings
from plinth.redis.keys import key_prefix
from plinth.testing import settings_for_tests
from tests.support.notes import settings_with

DATABASE_URL = "postgresql://plinth:secret@db:5432/orders"


def prefix(**values: Any) -> str:
    return key_prefix(settings_with(**{"DATABASE_URL": DATABASE_URL, "ENVIRONMENT": "test", **values}))


@pytest.mark.parametrize(
    "other",
    [
        {"PROJECT_NAME": "Orders"},
        {"ENVIRONMENT": "local"},
        {"SECRET_KEY": "x" * 64},
        {"DATABASE_URL": "postgresql://plinth:secret@db:5432/invoices"},
        {"DATABASE_URL": "sqlite+aiosqlite:///orders.db"},
    ],
)
def test_another_service_or_environment_has_another_key_prefix(other: dict[str, Any]) -> None:
    assert prefix(**other) != prefix()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://plinth:secret@pooler:6543/orders?pgbouncer=true",
        "postgresql://owner:other@db:5432/orders",
        "postgresql://plinth:secret@one:5432,two:5432/orders?target_session_attrs=read-write",
        "postgres:///orders?host=/run/postgresql",
    ],
)
def test_another_url_of_the_same_database_gives_the_same_key_prefix(url: str) -> None:
    assert prefix(DATABASE_URL=url) == prefix()


def test_key_prefix_stays_while_the_first_key_does() -> None:
    assert prefix(SECRET_KEY=f"{'x' * 64},{'y' * 64}") == prefix(SECRET_KEY="x" * 64)


def test_key_prefix_starts_with_the_project_name_and_contains_no_secret() -> None:
    found = prefix(PROJECT_NAME="Orders")

    assert found.startswith("Orders:")
    assert "secret" not in found
    assert "orders" not in found


def test_settings_with_lists_and_dictionaries_have_a_prefix() -> None:
    class Listing(Settings):
        SUPPLIERS: list[str] = Field(default_factory=list)
        DISCOUNTS: dict[str, int] = Field(default_factory=dict)

    values = {"DATABASE_URL": DATABASE_URL, "ENVIRONMENT": "test"}

    assert key_prefix(settings_for_tests(Listing, **values)) == prefix()
