"""The settings of the operator's page /ops, and of the sign-in there."""

from collections.abc import Iterator

from pydantic import Field, SecretStr

from plinth.settings import types
from plinth.settings.identity import AuthProvider, IdentitySettings
from plinth.settings.secret_strength import is_example

__all__ = ["OpsSettings"]

_CLIENT = ("OPS_CLIENT_ID", "OPS_CLIENT_SECRET")


class OpsSettings(IdentitySettings):
    """Whether /ops is served, and the client that the identity provider knows it as."""

    OPS_ENABLED: bool = False
    OPS_CLIENT_ID: str | None = None
    OPS_CLIENT_SECRET: SecretStr | None = None
    OPS_SCOPES: types.Texts = ("openid",)
    OPS_SESSION_HOURS: float = Field(8.0, gt=0, le=168)
    OPS_TRACE_URL: types.TraceUrl | None = None

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        if not self.OPS_ENABLED:
            return
        custom = self.AUTH_PROVIDER is AuthProvider.CUSTOM
        for name in _CLIENT:
            if custom and not getattr(self, name):
                yield name, "expected a value, because OPS_ENABLED is true and AUTH_PROVIDER is custom"
            elif not custom and getattr(self, name):
                yield name, f"expected none, because AUTH_PROVIDER is {self.AUTH_PROVIDER}: /ops takes a token there"
        if "openid" not in self.OPS_SCOPES:
            yield "OPS_SCOPES", "expected openid among them: without it there is no ID token"

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        secret = self.OPS_CLIENT_SECRET
        if secret is not None and is_example(secret.get_secret_value()):
            yield "OPS_CLIENT_SECRET", "expected a secret of its own, not one that is printed as an example"
