from plinth.cli.config import effective_configuration
from plinth.settings import PlatformSettings
from tests.support.settings import SECRETS


def test_every_setting_has_a_row_that_says_where_it_is_from() -> None:
    rows = {row.name: row for row in effective_configuration(PlatformSettings.isolated(DB_POOL_SIZE=10, DEBUG=True))}
    assert set(PlatformSettings.model_fields) < set(rows)
    assert (rows["DEBUG"].value, rows["DEBUG"].origin) == ("true", "set")
    assert (rows["DB_POOL_SIZE"].value, rows["DB_POOL_SIZE"].origin) == ("10", "set")
    assert (rows["REDIS_URL"].value, rows["REDIS_URL"].origin) == ("", "default")
    assert (rows["jwt_algorithms"].value, rows["jwt_algorithms"].origin) == ("HS256", "computed")


def test_secret_part_of_a_configured_url_is_masked() -> None:
    rows = {row.name: row.value for row in effective_configuration(PlatformSettings.isolated(**SECRETS))}
    assert rows["DATABASE_URL"] == "postgresql://app:********@db/app"
    assert rows["REDIS_URL"] == "redis://:********@cache:6379/0"
    assert rows["SECRET_KEY"] == rows["UPSTASH_REDIS_TOKEN"] == "********"


def test_configuration_row_prints_as_a_line() -> None:
    assert str(effective_configuration(PlatformSettings.isolated())[1]) == f"{'ENVIRONMENT':<24}  default   local"
