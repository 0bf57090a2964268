"""The base models of bodies and query parameters."""

from datetime import date

import pytest
from pydantic import BaseModel, Field, ValidationError

from plinth.http.schemas import MAX_ERRORS, QueryModel, Text, WriteModel


class Thing(WriteModel):
    name: Text
    size: int = Field(default=1, ge=1)


def issues(model: type[BaseModel], body: object) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    return [issue["type"] for issue in refused.value.errors()]


@pytest.mark.parametrize("size", ["1", 1.0, True, None])
def test_a_write_model_converts_no_number(size: object) -> None:
    assert issues(Thing, {"name": "x", "size": size}) == ["int_type"]


def test_a_write_model_refuses_unknown_fields() -> None:
    assert issues(Thing, {"name": "x", "colour": "red", "shape": "round"}) == ["extra_forbidden"] * 2


def test_write_model_refuses_json_that_is_not_an_object() -> None:
    assert issues(Thing, ["name"]) == ["model_type"]


class Search(QueryModel):
    limit: int = 10
    since: date | None = None
    state: set[str] = Field(default_factory=set)
    deep: bool = False


def test_a_query_model_converts_text() -> None:
    found = Search.model_validate({"limit": "5", "since": "2026-03-01", "state": ["a", "b"], "deep": "true"})

    assert found == Search(limit=5, since=date(2026, 3, 1), state={"a", "b"}, deep=True)


def test_a_query_model_refuses_unknown_parameters() -> None:
    assert issues(Search, {"colour": "red"}) == ["extra_forbidden"]
    assert issues(Search, {"limit": "few"}) == ["int_parsing"]


def test_query_model_reports_too_many_errors_as_one() -> None:
    assert issues(Search, {str(n): "" for n in range(MAX_ERRORS + 1)}) == ["too_many_errors"]


def test_text_refuses_characters_that_postgresql_cannot_store() -> None:
    assert Thing(name="line\nbreak\ttab 🎉").name == "line\nbreak\ttab 🎉"
    assert issues(Thing, {"name": "a\0b"}) == ["string_pattern_mismatch"]
    assert issues(Thing, {"name": "a\n\0"}) == ["string_pattern_mismatch"]
    assert issues(Thing, {"name": "\ud800"}) == ["string_unicode"]
