"""The part of the chart's schema that is generated from the settings."""

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SecretStr

from plinth.settings import PlatformSettings, types
from scripts.values_schema import CHART_SCHEMA, DECIDED_BY_CHART, config_schema, explanations


class ShopSettings(PlatformSettings):
    CURRENCY: Literal["EUR", "USD"] = "EUR"
    ORDERS_PER_PAGE: int = Field(20, ge=1, le=100)
    COUNTRIES: Annotated[tuple[str, ...], *types.LIST] = ()
    DISCOUNT: float | None = Field(None, gt=0, lt=1)
    SHOP_OPEN: bool = True
    LIMIT: int | Literal["none"] = 5
    PRICES: dict[str, int] | None = None
    CARRIER_TOKEN: SecretStr | None = None


def properties(*required: str) -> dict[str, Any]:
    explained = dict.fromkeys(ShopSettings.model_fields, "What it does.")
    schema = config_schema(ShopSettings, required, explained)
    assert schema["additionalProperties"] is False
    return dict(schema["properties"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CURRENCY", {"type": ["string", "null"], "enum": ["EUR", "USD", None]}),
        ("ORDERS_PER_PAGE", {"type": ["integer", "string", "null"], "minimum": 1, "maximum": 100}),
        ("COUNTRIES", {"type": ["array", "string", "null"], "items": {"type": "string"}}),
        ("DISCOUNT", {"type": ["number", "string", "null"], "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        ("SHOP_OPEN", {"type": ["boolean", "string", "null"]}),
        ("LIMIT", {"type": ["integer", "string", "null"]}),
        ("PRICES", {"type": ["object", "string", "null"], "additionalProperties": {"type": "integer"}}),
        ("LOG_LEVEL", {"type": ["string", "null"]}),  # lower case is accepted too
        ("AUTH_PROVIDER", {"type": ["string", "null"], "enum": ["supabase", "clerk", "custom", "local", None]}),
    ],
)
def test_schema_of_a_setting_accepts_its_type_and_text(name: str, expected: dict[str, Any]) -> None:
    assert properties()[name] == {"description": "What it does.", **expected}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AUTH_PROVIDER", {"type": "string", "enum": ["supabase", "clerk", "custom", "local"]}),
        ("DRAIN_SECONDS", {"type": "number", "minimum": 0, "maximum": 300}),
    ],
)
def test_schema_of_a_required_setting_accepts_its_type_only(name: str, expected: dict[str, Any]) -> None:
    assert properties(name)[name] == {"description": "What it does.", **expected}


def test_schema_leaves_out_secrets_and_settings_that_the_chart_decides() -> None:
    secrets = {name for name, field in ShopSettings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert "CARRIER_TOKEN" in secrets
    assert properties().keys() == ShopSettings.model_fields.keys() - secrets - DECIDED_BY_CHART


def test_setting_without_an_explanation_is_an_error() -> None:
    with pytest.raises(KeyError, match="PROJECT_NAME"):
        config_schema(ShopSettings, (), {})


def test_explanation_is_the_comment_right_above_a_setting() -> None:
    text = "# The page.\n\n# --- Group ---\n\n# One line\n# and another.\n# A=1\nB=2\n# Third.\nC=\n"
    assert explanations(text) == {"A": "One line and another.", "C": "Third."}


def test_config_takes_opentelemetrys_settings_but_secrets_and_what_the_chart_decides() -> None:
    accepted = json.loads(CHART_SCHEMA.read_text(encoding="utf-8"))["definitions"]["config"]["properties"]
    names = {name for name in PlatformSettings.model_fields if name.startswith("OTEL_")}
    left_out = {name for name in DECIDED_BY_CHART if name.startswith("OTEL_")}
    secret = {"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"}
    assert {name for name in accepted if name.startswith("OTEL_")} == names - left_out - secret
