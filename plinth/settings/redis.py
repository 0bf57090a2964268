"""The settings of Redis, which is optional."""

from collections.abc import Iterator

from pydantic import SecretStr

from plinth.settings import types, urls
from plinth.settings.general import GeneralSettings
from plinth.settings.secret_strength import is_example

__all__ = ["RedisSettings"]


class RedisSettings(GeneralSettings):
    """How to reach Redis: by its URL, or by the address and token of an Upstash database."""

    REDIS_URL: types.RedisUrl | None = None
    REDIS_PLAINTEXT: bool = False
    REDIS_TIMEOUT: types.Seconds = 0.25
    UPSTASH_REDIS_URL: types.BaseUrl | None = None
    UPSTASH_REDIS_TOKEN: SecretStr | None = None
    # The names under which Upstash's console hands out the same two.
    UPSTASH_REDIS_REST_URL: types.BaseUrl | None = None
    UPSTASH_REDIS_REST_TOKEN: SecretStr | None = None

    @property
    def redis_url(self) -> str | None:
        """REDIS_URL, else the address of the Upstash pair. Holds the password."""
        if self.REDIS_URL is not None:
            return self.REDIS_URL.get_secret_value()
        url = self.UPSTASH_REDIS_URL or self.UPSTASH_REDIS_REST_URL
        token = self.UPSTASH_REDIS_TOKEN or self.UPSTASH_REDIS_REST_TOKEN
        return None if url is None or token is None else urls.upstash_redis_url(url, token.get_secret_value())

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        yield from self.insecure_urls("UPSTASH_REDIS_URL", "UPSTASH_REDIS_REST_URL")
        given = {name: getattr(self, name) for name in RedisSettings.model_fields if name.startswith("UPSTASH_")}
        given = {name: value for name, value in given.items() if value}
        for part, other in (("URL", "TOKEN"), ("TOKEN", "URL")):
            plain, rest = f"UPSTASH_REDIS_{part}", f"UPSTASH_REDIS_REST_{part}"
            if plain in given and rest in given and given[plain] != given[rest]:
                yield rest, f"expected the value of {plain}, which means the same, or none"
            if given and plain not in given and rest not in given:
                (name, *_) = given
                yield name.replace(other, part), f"expected a value: {name.replace(other, part)} and {name} go together"

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        if self.REDIS_URL is not None:
            url = self.REDIS_URL.get_secret_value()
            problems = []
            if url.lower().startswith(("redis://", "redis+sentinel://")) and not self.REDIS_PLAINTEXT:
                problems.append(
                    "expected rediss:// or rediss+sentinel:// (TLS), or unix://, or REDIS_PLAINTEXT=true for plain text"
                )
            if any(is_example(password, user) for user, password in urls.redis_credentials(url)):
                problems.append("expected a password of its own, not one that is printed as an example")
            if problems:
                yield "REDIS_URL", "; ".join(problems)
        for name in ("UPSTASH_REDIS_TOKEN", "UPSTASH_REDIS_REST_TOKEN"):
            token = getattr(self, name)
            if token is not None and is_example(token.get_secret_value()):
                yield name, "expected a token of its own, not one that is printed as an example"
