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

    @property
    def redis_url(self) -> str | None:
        """REDIS_URL, else the address of the Upstash pair. Holds the password."""
        if self.REDIS_URL is not None:
            return self.REDIS_URL.get_secret_value()
        if self.UPSTASH_REDIS_URL is not None and self.UPSTASH_REDIS_TOKEN is not None:
            return urls.upstash_redis_url(self.UPSTASH_REDIS_URL, self.UPSTASH_REDIS_TOKEN.get_secret_value())
        return None

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        yield from super().broken_rules()
        yield from self.insecure_urls("UPSTASH_REDIS_URL")
        pair = ("UPSTASH_REDIS_URL", "UPSTASH_REDIS_TOKEN")
        missing = [name for name in pair if not getattr(self, name)]
        if len(missing) == 1:
            yield missing[0], f"expected a value: {pair[0]} and {pair[1]} go together"

    def unfit_for_deployment(self) -> Iterator[tuple[str, str]]:
        yield from super().unfit_for_deployment()
        if self.REDIS_URL is not None:
            url = self.REDIS_URL.get_secret_value()
            problems = []
            if url.startswith("redis://") and not self.REDIS_PLAINTEXT:
                problems.append("expected rediss:// (TLS) or unix://, or REDIS_PLAINTEXT=true for plain text")
            if any(is_example(password, user) for user, password in urls.redis_credentials(url)):
                problems.append("expected a password of its own, not one that is printed as an example")
            if problems:
                yield "REDIS_URL", "; ".join(problems)
        if self.UPSTASH_REDIS_TOKEN is not None and is_example(self.UPSTASH_REDIS_TOKEN.get_secret_value()):
            yield "UPSTASH_REDIS_TOKEN", "expected a token of its own, not one that is printed as an example"
