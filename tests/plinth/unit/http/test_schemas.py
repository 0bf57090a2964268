"""What all request bodies have in common."""

import pytest
from pydantic import Field, ValidationError

from plinth.http.schemas import Text, WriteModel


class Thing(WriteModel):
    name: Text
    size: int = Field(default=1, ge=1)


class Nested(WriteModel):
    thing: Thing


def issues(model: type[WriteModel], body: object) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    return [issue["type"] for issue in refused.value.errors()]


class TestWriteModel:
    @pytest.mark.parametrize("size", ["1", 1.0, True, None])
    def test_takes_types_at_their_word(self, size: object) -> None:
        assert issues(Thing, {"name": "x", "size": size}) == ["int_type"]

    def test_refuses_fields_that_do_not_exist(self) -> None:
        assert issues(Thing, {"name": "x", "colour": "red", "shape": "round"}) == ["extra_forbidden"] * 2

    def test_has_one_word_for_a_flood_of_them(self) -> None:
        flood = {str(n): n for n in range(100)}

        assert issues(Thing, {"name": "x", **flood}) == ["too_many_fields"]
        assert issues(Nested, {"thing": {"name": "x", **flood}}) == ["too_many_fields"]

    def test_leaves_what_is_no_object_to_pydantic(self) -> None:
        assert issues(Thing, ["name"]) == ["model_type"]


class TestText:
    def test_holds_what_postgresql_can_hold(self) -> None:
        assert Thing(name="line\nbreak\ttab 🎉").name == "line\nbreak\ttab 🎉"
        assert issues(Thing, {"name": "a\0b"}) == ["string_pattern_mismatch"]
        assert issues(Thing, {"name": "a\n\0"}) == ["string_pattern_mismatch"]
        assert issues(Thing, {"name": "\ud800"}) == ["string_unicode"]
