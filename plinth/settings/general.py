"""The settings that every part of the service uses: its name, its environment, its secret."""

from collections.abc import Iterator
from enum import StrEnum

from pydantic import Field, SecretStr

from plinth.settings import types, urls
from plinth.settings.loading import CheckedSettings
from plinth.settings.secret_strength import weakness_of_any

__all__ = ["DEVELOPMENT_SECRET_KEY", "Environment", "GeneralSettings"]

DEVELOPMENT_SECRET_KEY = "for-development-only-do-not-deploy-me"  # noqa: S105 - a deployment refuses it


class Environment(StrEnum):
    """Where the service runs."""

    LOCAL = "local"
    TEST = "test"
    STAGING = "staging"
    PRODUCTION = "production"

    @property
    def deployed(self) -> bool:
        """Whether other people can reach the service, so that it refuses what is made for development."""
        return self in (Environment.STAGING, Environment.PRODUCTION)


class GeneralSettings(CheckedSettings):
    """The settings that the other groups build on."""

    PROJECT_NAME: str = Field("Plinth", max_length=63)  # PostgreSQL cuts application_name there
    ENVIRONMENT: Environment = Environment.LOCAL
    DEBUG: bool = False
    SECRET_KEY: types.Secrets = SecretStr(DEVELOPMENT_SECRET_KEY)
    BUILD_REVISION: str = "unknown"

    def known_keys(self) -> Iterator[tuple[str, str]]:
        """Yield the secrets that sign and that others could know, in the form of `broken_rules`.

        With such a secret any client could sign its tokens, so a process serves this machine alone.
        """
        if problem := weakness_of_any(self.SECRET_KEY):
            yield "SECRET_KEY", problem

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        if self.ENVIRONMENT.deployed:
            yield from self.unfit_for_deployment()

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        """Yield what staging and production refuse, in the form of `broken_rules`."""
        # DEBUG is allowed in staging, to look at a failure. The other rules are the same in both, or staging would not
        # show that production works.
        if self.DEBUG and self.ENVIRONMENT is Environment.PRODUCTION:
            yield "DEBUG", "expected false in production"
        yield from self.known_keys()

    def insecure_urls(self, *names: str) -> Iterator[tuple[str, str]]:
        """Yield those of the settings `names` that are plain http to another machine, in the form of `broken_rules`."""
        for name in names:
            value = getattr(self, name) or ()
            plain = [url for url in ([value] if isinstance(value, str) else value) if not url.startswith("https://")]
            if plain and (self.ENVIRONMENT.deployed or not all(map(urls.is_loopback, plain))):
                yield name, "expected https:// (http:// only to this machine, with ENVIRONMENT local or test)"
