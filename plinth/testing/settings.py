"""Settings for tests."""

import secrets
from typing import Any, TypeVar

from plinth.settings import PlatformSettings

__all__ = ["NO_DATABASE", "settings_for_tests"]

NO_DATABASE = "postgresql://plinth:s3cret@127.0.0.1:1/plinth?sslmode=disable"
"""The address of a database that refuses connections: for tests that need none."""

# A busy machine shall not fail a test. Seconds.
PATIENT = dict.fromkeys(("DB_POOL_TIMEOUT", "DB_CONNECT_TIMEOUT", "DB_STATEMENT_TIMEOUT", "REDIS_TIMEOUT"), 20)

# Without it neither application nor worker starts, once a kind of job is encrypted.
KEY = secrets.token_hex(32)

S = TypeVar("S", bound=PlatformSettings)


def settings_for_tests(settings: type[S], /, **values: Any) -> S:
    """Make settings of a service's settings class for a test.

    No limits for a caller, long timeouts, a key for encrypted payloads, then `values`. Neither the environment nor
    `.env` is read.

    Raises:
        SettingsError: a value is not one that the setting accepts, or is needed and missing.
    """
    unlimited = {"RATE_LIMIT": "", "RATE_LIMIT_ANONYMOUS": "", "MAX_REQUESTS_PER_CALLER": 1000}
    given = {"ENVIRONMENT": "test", "LOG_FORMAT": "json", "JOBS_ENCRYPTION_KEY": KEY, **unlimited, **PATIENT, **values}
    return settings.isolated(**given)
