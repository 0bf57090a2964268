"""Results as JSON."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from plinth.jobs.results import dump


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
