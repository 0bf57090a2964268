"""json_response writes what a response model writes."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from plinth.http.responses import json_response


class Anything(BaseModel):
    value: Any


class TestJsonResponse:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            0,
            -(2**53),
            1.5,
            "Grüße 🎉\0\n\u2028</script>\x7f",
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            datetime(2026, 1, 2, 3, 4, 5, 120, tzinfo=UTC),
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            UUID(int=1),
            Decimal("1.10"),
            ["a", []],
            {"a": {"b": None}},
        ],
    )
    def test_json_response_equals_the_json_of_a_model(self, value: Any) -> None:
        assert json_response({"value": value}).body == Anything(value=value).model_dump_json().encode()

    def test_json_response_has_a_status_and_headers(self) -> None:
        response = json_response({}, 201, {"Location": "/there"})

        assert response.status_code == 201
        assert response.headers["location"] == "/there"
        assert response.headers["content-type"] == "application/json"
        assert response.headers["content-length"] == "2"
