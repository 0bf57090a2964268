"""The names of operations, the tags and the examples of the OpenAPI document."""

import re
from typing import Any

import pytest
from fastapi import FastAPI

from notes.config import Settings
from notes.main import create_app
from plinth.api.openapi import operation_id
from plinth.testing import settings_for_tests

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    return create_app(settings_for_tests(Settings)).openapi()


def operations(document: Document) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_a_service_may_change_the_document_by_a_function_around_the_one_before() -> None:
    app = create_app(settings_for_tests(Settings))
    before = app.openapi
    app.openapi = lambda: before() | {"x-team": "shop"}  # type: ignore[method-assign]

    assert app.openapi()["x-team"] == "shop"
    assert "Problem" in app.openapi()["components"]["schemas"]


@pytest.mark.parametrize(
    ("tags", "name", "expected"),
    [
        (["items"], "create_item", "items_create"),
        (["items"], "list_items", "items_list"),
        (["companies"], "read_company", "companies_read"),
        (["Line items"], "delete_line_item", "line_items_delete"),
        (["exports", "files"], "read_content", "exports_read_content"),
        (["health"], "live", "health_live"),
        ([], "create_item", "create_item"),
    ],
)
def test_operation_has_the_name_of_its_tag_and_its_function(tags: list[Any], name: str, expected: str) -> None:
    app = FastAPI(generate_unique_id_function=operation_id)
    app.add_api_route("/", lambda: None, name=name, tags=tags)

    assert app.openapi()["paths"]["/"]["get"]["operationId"] == expected


def test_head_beside_a_get_has_a_name_of_its_own() -> None:
    app = FastAPI(generate_unique_id_function=operation_id)

    @app.head("/", tags=["items"])
    @app.get("/", tags=["items"])
    async def read_item() -> None: ...

    path = app.openapi()["paths"]["/"]
    assert (path["get"]["operationId"], path["head"]["operationId"]) == ("items_read", "items_read_head")


def test_operations_of_the_platform_have_short_names(document: Document) -> None:
    named = sorted(operation["operationId"] for operation in operations(document))

    assert [name for name in named if not name.startswith("notes_")] == [
        "audit_list",
        "health_live",
        "health_ready",
        "jobs_cancel",
        "jobs_change_many",
        "jobs_list",
        "jobs_read",
        "jobs_read_batch",
        "jobs_read_steps",
        "jobs_retry",
        "jobs_watch",
        "me_read",
        "queues_list",
        "queues_pause",
        "queues_resume",
        "schedules_list",
        "schedules_pause",
        "schedules_resume",
        "schedules_run",
        "workers_list",
    ]


def test_each_tag_is_described(document: Document) -> None:
    described = {tag["name"]: tag["description"] for tag in document["tags"]}
    used = {tag for operation in operations(document) for tag in operation["tags"]}

    assert used == set(described)
    assert all(re.fullmatch(r"[A-Z].*\.", text) for text in described.values())


def test_texts_of_the_platform_s_bodies_have_examples(document: Document) -> None:
    """Swagger UI makes line noise of a pattern."""
    for name in ("BulkAction", "BulkPriority"):
        properties = document["components"]["schemas"][name]["properties"]
        assert [field for field, of in properties.items() if "pattern" in of and "examples" not in of] == []
