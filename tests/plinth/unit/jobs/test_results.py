"""Results as JSON."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from plinth.jobs.results import dump, load


class Rate(BaseModel):
    value: float | None


@dataclass
class Share:
    value: float | None


NUMBERS = [math.inf, -math.inf, math.nan]
WITHOUT_ONE = [
    (Any, {"rates": [None, 1.5, "Infinity", "NaN", "null"]}),
    (Rate, Rate(value=None)),
    (Rate, Rate(value=1.5)),
    (Share, Share(None)),
    (dict[str, float | None], {"null": 1.0}),
]


@pytest.mark.parametrize("number", NUMBERS)
def test_number_that_json_has_not_is_refused(number: float) -> None:
    """Pydantic makes null of it, and where the type allows null a later run would have read that."""
    refused: list[tuple[Any, Any]] = [
        (Any, number),
        (Any, {"rates": [1.5, number]}),
        (float | None, number),
        (list[float | None], [number]),
        (Rate, Rate(value=number)),
        (Any, Rate(value=number)),
        (Share, Share(number)),
    ]
    for hint, value in refused:
        with pytest.raises(ValueError, match="The result holds infinity or NaN, which JSON has not"):
            dump("The result", TypeAdapter(hint), value)


@pytest.mark.parametrize(("hint", "value"), WITHOUT_ONE)
def test_null_and_texts_that_read_like_numbers_are_kept(hint: Any, value: Any) -> None:
    adapter = TypeAdapter(hint)

    assert adapter.validate_json(dump("The result", adapter, value)) == value


class Aliased(BaseModel):
    charge_id: str = Field(alias="chargeId")


class ReadByAlias(BaseModel):
    charge_id: str = Field(validation_alias=AliasChoices("chargeId", "id"))


class WrittenByAlias(BaseModel):
    charge_id: str = Field(serialization_alias="chargeId")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True)

    charge_id: str
    of: Aliased


class Charge(TypedDict):
    of: Aliased


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Aliased, Aliased(chargeId="x")),
        (ReadByAlias, ReadByAlias(chargeId="x")),
        (WrittenByAlias, WrittenByAlias(charge_id="x")),
        (Camel, Camel(chargeId="x", of=Aliased(chargeId="y"))),
        (list[Aliased], [Aliased(chargeId="x")]),
        (Charge, {"of": Aliased(chargeId="x")}),
    ],
)
def test_model_with_aliases_is_kept(hint: Any, value: Any) -> None:
    """What the answers of other services are read into: the step that got one failed in each attempt."""
    adapter = TypeAdapter(hint)

    assert load(adapter, dump("The result", adapter, value)) == value
