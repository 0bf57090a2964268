"""What the OpenAPI document says of this service's endpoints."""

import re
from typing import Any

import pytest

from app.core.config import Settings
from app.main import create_app
from plinth.testing import settings_for_tests


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(settings_for_tests(Settings)).openapi()


def test_operations_have_names_that_generators_of_clients_take(document: dict[str, Any]) -> None:
    named = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]

    assert len(set(named)) == len(named)
    assert [name for name in named if not re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name)] == []


# sample: begin
def test_operations_of_the_sample_have_short_names(document: dict[str, Any]) -> None:
    items, item = document["paths"]["/api/v1/items"], document["paths"]["/api/v1/items/{item_id}"]

    assert [items[method]["operationId"] for method in ("get", "post")] == ["items_list", "items_create"]
    assert [item[method]["operationId"] for method in ("get", "patch", "delete")] == [
        "items_read",
        "items_update",
        "items_delete",
    ]


def test_each_tag_is_described(document: dict[str, Any]) -> None:
    used = {tag for path in document["paths"].values() for operation in path.values() for tag in operation["tags"]}

    assert used == {tag["name"] for tag in document["tags"]}


def test_examples_of_an_item_read_like_an_item(document: dict[str, Any]) -> None:
    """Swagger UI makes line noise of a pattern that has no example."""
    for name in ("ItemCreate", "ItemUpdate"):
        properties = document["components"]["schemas"][name]["properties"]
        assert properties["name"]["examples"] == ["anvil"]
        assert properties["description"]["anyOf"][0]["examples"] == ["cast iron"]
        assert properties["tags"]["items"]["examples"] == ["heavy"]


# sample: end
