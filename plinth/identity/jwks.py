"""Keys from the provider's JWKS endpoint, cached and renewed in the background.

While the endpoint is down, cached keys are used for one more day. An unknown `kid` makes the keys be fetched again: it
may be of a key that was published a moment ago. That happens at most once in each COOLDOWN, so neither an outage nor
forged tokens stop the service or flood the provider.

Unknown kids are not remembered: forgers have a new one for each token, and a key may be published after its first use.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import structlog
from prometheus_client import Counter, Gauge

from plinth.aio import cancel_all
from plinth.identity.documents import DocumentError, Documents, find_jwks_url
from plinth.identity.errors import KeysUnavailable, Reason, TokenError
from plinth.identity.jwk import read_key_set
from plinth.identity.keys import VerificationKey

# All in seconds.
TTL = 300.0  # while the endpoint answers, a key that it no longer lists is used no longer than this
RENEW_AFTER = 240.0  # a request for keys of this age starts a fetch in the background
STALE_LIMIT = 86_400.0  # bridges an outage overnight; no longer, because a withdrawn key stays valid meanwhile
RETRY_AFTER = 30.0  # from a fetch in the background that failed to the next
COOLDOWN = 2.0  # from any fetch to one because of an unknown key; so long a new key may wait under an attack
FETCH_DEADLINE = 2.5  # for a fetch as a whole: discovery, connecting, and the last byte

log = structlog.get_logger("plinth.identity")

_FETCHES = Counter("plinth_jwks_fetches", "Attempts to fetch an issuer's keys.", ["issuer", "outcome"])
_LAST_SUCCESS = Gauge(
    "plinth_jwks_last_success_timestamp_seconds",
    "When an issuer's keys were last fetched; 0 if never.",
    ["issuer"],
)


@dataclass(eq=False)
class JwksKeys:
    """The keys at `url`. If it is None, each fetch reads it from the issuer's discovery document first."""

    documents: Documents
    algorithms: frozenset[str]
    _: KW_ONLY
    issuer: str
    url: str | None = None
    may_be_empty: bool = False
    """The issuer has another key source, and may publish no key yet."""
    deadline: float = FETCH_DEADLINE
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._keys: dict[str | None, VerificationKey] = {}
        self._fetched_at = float("-inf")  # the last successful fetch
        self._tried_at = float("-inf")  # the end of the last fetch, successful or not
        self._fetching: asyncio.Task[None] | None = None
        self._succeeded = _FETCHES.labels(self.issuer, "success")
        self._failed = _FETCHES.labels(self.issuer, "failure")
        self._last_success = _LAST_SUCCESS.labels(self.issuer)

    async def keys(self, kid: str | None, alg: str) -> Sequence[VerificationKey]:
        """Find the key. Raises TokenError (unknown_kid), or KeysUnavailable if keys cannot be fetched."""
        key = self._find(kid, alg)
        since_try = self.monotonic() - self._tried_at
        # After a quiet time the endpoint was not asked for longer than TTL: ask it before trusting the key. In an
        # outage under traffic it was, in the background, so no request waits.
        if since_try >= TTL or (key is None and (self._fetching or since_try >= COOLDOWN)):
            await asyncio.shield(self._fetch())  # other requests wait for it too
            key = self._find(kid, alg)
        elif self.monotonic() - self._fetched_at >= RENEW_AFTER and since_try >= RETRY_AFTER:
            self._fetch()

        if key is not None:
            return (key,)
        if self._tried_at > self._fetched_at:
            raise KeysUnavailable("the identity provider's keys cannot be fetched")
        raise TokenError(Reason.UNKNOWN_KID)

    async def aclose(self) -> None:
        if self._fetching is not None:
            await cancel_all([self._fetching])
        await self.documents.aclose()

    def _find(self, kid: str | None, alg: str) -> VerificationKey | None:
        if self.monotonic() - self._fetched_at >= STALE_LIMIT:
            return None
        if kid is not None:
            return self._keys.get(kid)
        # A token without `kid` is valid if there is only one key for its algorithm.
        candidates = [key for key in self._keys.values() if alg in key.algorithms]
        return candidates[0] if len(candidates) == 1 else None

    def _fetch(self) -> asyncio.Task[None]:
        """The fetch in progress, or a new one."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._renew())
        return self._fetching

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(self.deadline):
                url = self.url or await find_jwks_url(self.documents, self.issuer)
                keys = read_key_set(await self.documents.get(url), self.algorithms)
            if not keys and (self._keys or not self.may_be_empty):
                # No issuer withdraws its last key without a successor: a mistake on its side.
                raise DocumentError(f"{url}: no usable key")
        except Exception as error:  # noqa: BLE001 - cached keys are used whatever it is
            log.warning("keys not fetched", issuer=self.issuer, error=f"{type(error).__name__}: {error}")
            self._tried_at = self.monotonic()
            self._failed.inc()
        else:
            self._replace(keys)
            self._succeeded.inc()
            self._last_success.set_to_current_time()
            self._tried_at = self._fetched_at = self.monotonic()
        finally:
            self._fetching = None

    def _replace(self, keys: dict[str | None, VerificationKey]) -> None:
        for kid, old in self._keys.items():
            new = keys.get(kid)
            if new is not None and new.material == old.material and new.algorithms == old.algorithms:
                keys[kid] = old  # the same object, so that principals verified with it stay cached
            else:
                old.retired = True
        self._keys = keys
