"""The values in force, as `plinth config check` prints them."""

from typing import Literal, NamedTuple

from pydantic import SecretStr

from plinth.settings import PlatformSettings, urls
from plinth.settings.database import postgres_url

Origin = Literal["set", "default", "computed"]


class SettingRow(NamedTuple):
    """A line of `plinth config check`; `str()` of it is the line."""

    name: str
    value: str
    origin: Origin

    def __str__(self) -> str:
        return f"{self.name:<24}  {self.origin:<8}  {self.value}".rstrip()


def effective_configuration(settings: PlatformSettings) -> list[SettingRow]:
    """Return a row for each setting, then for each value computed from several, with secrets masked."""
    given = settings.model_fields_set
    origins: dict[str, Origin] = {name: "set" if name in given else "default" for name in type(settings).model_fields}
    computed = ("docs_enabled", "requests_per_caller", "issuers", "jwks_urls", "jwt_algorithms", "traces_endpoint")
    origins |= dict.fromkeys(computed, "computed")
    return [SettingRow(name, _shown(name, getattr(settings, name)), origin) for name, origin in origins.items()]


def _shown(name: str, value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple() if name == "PERMISSIONS":
            return ",".join(f"{role}={' '.join(permissions)}" for role, permissions in value)
        case tuple() | list():
            return ",".join(str(part) for part in value)
        case SecretStr() if name in ("DATABASE_URL", "DATABASE_REPLICA_URL"):
            address = postgres_url(value)
            return address.masked() if address else value.get_secret_value()
        case SecretStr() if name == "REDIS_URL":
            return urls.masked_redis_url(value.get_secret_value())
        case SecretStr():
            return urls.MASK
        case _:
            return str(value)
