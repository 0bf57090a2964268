"""The configuration: `PlatformSettings`, made of one class for each group of settings.

Values come from the environment, then from `.env` in the working directory, then from the defaults. A service
subclasses `PlatformSettings`; docs/settings.md says how to add a setting.
"""

from typing import ClassVar

from plinth.settings.database import DatabaseSettings
from plinth.settings.general import DEVELOPMENT_SECRET_KEY, Environment
from plinth.settings.health import HealthSettings
from plinth.settings.http import HttpSettings
from plinth.settings.identity import AuthProvider, IdentitySettings
from plinth.settings.jobs import JobsSettings
from plinth.settings.loading import SettingsError
from plinth.settings.logs import LogSettings
from plinth.settings.ops import OpsSettings
from plinth.settings.redis import RedisSettings
from plinth.settings.service import Service
from plinth.settings.traces import TraceSettings

__all__ = ["DEVELOPMENT_SECRET_KEY", "AuthProvider", "Environment", "PlatformSettings", "SettingsError"]


# Pydantic takes the fields from the last base to the first: the general ones come first, then the database's.
class PlatformSettings(
    OpsSettings,
    IdentitySettings,
    HealthSettings,
    TraceSettings,
    LogSettings,
    JobsSettings,
    HttpSettings,
    RedisSettings,
    DatabaseSettings,
):
    """The settings of the platform, under their names in the environment. `.env.example` explains them one by one.

    Lists are written `a,b` or in JSON.

    Raises:
        SettingsError: a value is missing, wrong or misspelt, or a rule is broken.
    """

    service: ClassVar[Service]
    """The service that these settings are of. A service sets it in its own settings class."""

    @property
    def requests_per_caller(self) -> int:
        """How many requests of one caller a process serves at once: unless set, four fifths of its connections."""
        if self.MAX_REQUESTS_PER_CALLER is not None:
            return self.MAX_REQUESTS_PER_CALLER
        return max(1, (self.DB_POOL_SIZE + self.DB_MAX_OVERFLOW) * 4 // 5)
