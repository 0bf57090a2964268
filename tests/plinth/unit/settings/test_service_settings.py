"""A service adds settings and rules to the platform's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, SecretStr, model_validator

from plinth.cli.config import effective_configuration
from plinth.settings import PlatformSettings, SettingsError, types
from tests.support.settings import PRODUCTION, SENTINEL, problems


class ShopSettings(PlatformSettings):
    CURRENCY: Literal["EUR", "USD"] = "EUR"
    ORDERS_PER_PAGE: int = Field(20, ge=1, le=100)
    ORDERS_PER_FILE: int = Field(1000, ge=1)
    COUNTRIES: Annotated[tuple[str, ...], *types.LIST] = ()
    CARRIER_TOKEN: SecretStr | None = None

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        if self.ORDERS_PER_FILE < self.ORDERS_PER_PAGE:
            yield "ORDERS_PER_FILE", "expected no less than ORDERS_PER_PAGE"

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        if self.CARRIER_TOKEN is None:
            yield "CARRIER_TOKEN", "expected a value"


def test_setting_of_a_service_is_read_from_the_environment_and_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTRIES", "DE, FR")
    Path(".env").write_text("ORDERS_PER_PAGE=50\n")
    found = ShopSettings()
    assert (found.CURRENCY, found.ORDERS_PER_PAGE, found.COUNTRIES) == ("EUR", 50, ("DE", "FR"))


def test_setting_of_a_service_is_a_row_after_those_of_the_platform() -> None:
    rows = [str(row) for row in effective_configuration(ShopSettings.isolated(CURRENCY="USD", CARRIER_TOKEN=SENTINEL))]
    names = [row.split()[0] for row in rows]
    assert names[: names.index("CURRENCY")] == list(PlatformSettings.model_fields)
    assert rows[names.index("CURRENCY")].split() == ["CURRENCY", "set", "USD"]
    assert rows[names.index("CARRIER_TOKEN")].split() == ["CARRIER_TOKEN", "set", "********"]


def test_list_of_a_service_is_a_row_whatever_it_holds() -> None:
    class Listing(PlatformSettings):
        SIZES: Annotated[tuple[int, ...], *types.LIST] = (1, 2)
        KEYS: Annotated[tuple[SecretStr, ...], *types.LIST] = (SecretStr(SENTINEL),)

    rows = {row.name: row.value for row in effective_configuration(Listing.isolated())}
    assert (rows["SIZES"], rows["KEYS"]) == ("1,2", "**********")


@pytest.mark.parametrize("source", ["environment", ".env"])
def test_value_that_is_not_json_is_reported_with_the_others(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    class Discounting(PlatformSettings):
        DISCOUNTS: dict[str, int] = Field(default_factory=dict)

    if source == "environment":
        monkeypatch.setenv("DISCOUNTS", SENTINEL)
    else:
        Path(".env").write_text(f"DISCOUNTS={SENTINEL}\n")
    monkeypatch.setenv("DB_POOL_SIZE", "many")

    found = problems(Discounting)

    assert f"DISCOUNTS ({source}): expected a valid dictionary" in found
    assert "DB_POOL_SIZE (environment): expected a valid integer" in found
    assert SENTINEL not in str(found)


@pytest.mark.parametrize("name", ["CURENCY", "ORDERSPERPAGE", "carrier_token"])
def test_misspelt_setting_of_a_service_is_reported(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SENTINEL)
    (problem,) = problems(ShopSettings)
    assert problem.startswith(f"{name} (environment): did you mean ")
    assert SENTINEL not in problem


def test_rule_of_a_service_is_reported_among_the_others_without_a_value() -> None:
    with pytest.raises(SettingsError) as caught:
        ShopSettings.isolated(
            **PRODUCTION | {"SECRET_KEY": SENTINEL},
            ORDERS_PER_FILE=5,
            CURRENCY=SENTINEL,
            COUNTRIES=f"[{SENTINEL}",
            UPSTASH_REDIS_TOKEN=SENTINEL,
        )
    assert caught.value.problems == [
        "CURRENCY (argument): expected 'EUR' or 'USD'",
        "COUNTRIES (argument): expected a list, separated by commas or in JSON",
        "SECRET_KEY (argument): expected a secret of your own of 32 characters or more (openssl rand -hex 32)",
        "CARRIER_TOKEN (not set): expected a value",
        "UPSTASH_REDIS_URL (not set): expected a value: UPSTASH_REDIS_URL and UPSTASH_REDIS_TOKEN go together",
        "ORDERS_PER_FILE (argument): expected no less than ORDERS_PER_PAGE",
    ]


class RequiredSettings(PlatformSettings):
    CARRIER_URL: types.Url


def test_setting_without_a_default_has_to_be_given() -> None:
    assert problems(lambda: RequiredSettings.isolated(DB_POOL_SIZE="many")) == [
        "DB_POOL_SIZE (argument): expected a valid integer",
        "CARRIER_URL (not set): expected a value",
    ]
    assert RequiredSettings.isolated(CARRIER_URL="https://carrier.example").CARRIER_URL == "https://carrier.example"


class ValidatedSettings(PlatformSettings):
    @model_validator(mode="after")
    def _check(self) -> "ValidatedSettings":
        if self.DB_POOL_SIZE > 50:
            raise ValueError("DB_POOL_SIZE is too large for the shop")
        return self


def test_error_of_a_pydantic_validator_of_the_model_is_a_problem() -> None:
    assert problems(lambda: ValidatedSettings.isolated(DB_POOL_SIZE=60)) == ["DB_POOL_SIZE is too large for the shop"]
