"""Keys under time, rotation, outages and strangers' tokens. The clock moves by hand; the server is real."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from plinth.identity import jwks
from plinth.identity.documents import Documents
from plinth.identity.errors import KeysUnavailable, Reason, TokenError
from plinth.identity.jwks import COOLDOWN, FIRST_COOLDOWN, RENEW_AFTER, STALE_LIMIT, TTL, JwksKeys
from plinth.identity.keys import VerificationKey
from tests.support.identity_provider import DISCOVERY_PATH, Clock, IdentityProvider, Mood, SigningKey
from tests.support.metrics import metric

OLD = SigningKey.make("key-1")
NEW = SigningKey.make("key-2")
STALE_ANSWERS = [
    Mood.ERROR,
    Mood.REDIRECTING,
    Mood.HUGE,
    Mood.BOMB,
    Mood.GARBAGE,
    Mood.NOT_AN_OBJECT,
    Mood.NESTED,
    Mood.EMPTY,
    Mood.NO_KEYS,
]


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider(OLD) as provider:
        yield provider


@pytest.fixture
def clock() -> Clock:
    return Clock()


def source(provider: IdentityProvider, clock: Clock, **options: Any) -> JwksKeys:
    arguments: dict[str, Any] = {
        "issuer": provider.issuer,
        "url": provider.jwks_url,
        "monotonic": clock,
    } | options
    return JwksKeys(Documents(allow_loopback=True), frozenset({"RS256"}), **arguments)


@pytest.fixture
async def keys(provider: IdentityProvider, clock: Clock) -> AsyncIterator[JwksKeys]:
    keys = source(provider, clock)
    yield keys
    await keys.aclose()


async def refusal(keys: JwksKeys, kid: str | None) -> Reason:
    with pytest.raises(TokenError) as caught:
        await keys.key(kid, "RS256")
    return caught.value.reason


async def in_background(keys: JwksKeys) -> None:
    assert keys._fetching is not None
    await keys._fetching


class TestFetching:
    async def test_once_for_many(self, keys: JwksKeys, provider: IdentityProvider) -> None:
        found = [await keys.key("key-1", "RS256") for _ in range(10)]
        assert {id(key) for key in found} == {id(found[0])}
        assert found[0].material == OLD.public
        assert provider.jwks_fetches == 1

    async def test_once_for_many_at_the_same_time(self, keys: JwksKeys, provider: IdentityProvider) -> None:
        found = await asyncio.gather(*(keys.key("key-1", "RS256") for _ in range(100)))
        assert len(set(map(id, found))) == 1
        assert provider.jwks_fetches == 1

    async def test_goes_on_when_the_one_who_asked_first_is_gone(
        self, keys: JwksKeys, provider: IdentityProvider
    ) -> None:
        first = asyncio.create_task(keys.key("key-1", "RS256"))
        await asyncio.sleep(0)
        second = asyncio.create_task(keys.key("key-1", "RS256"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        assert provider.jwks_fetches == 1

    async def test_nothing_before_it_is_needed(self, keys: JwksKeys, provider: IdentityProvider) -> None:
        assert provider.fetched == {}

    async def test_by_discovery(self, provider: IdentityProvider, clock: Clock) -> None:
        keys = source(provider, clock, url=None)
        assert await keys.key("key-1", "RS256")
        assert provider.fetched == {DISCOVERY_PATH: 1, "/jwks.json": 1}
        await keys.aclose()

    async def test_not_from_where_a_discovery_document_of_another_issuer_leads(
        self, provider: IdentityProvider, clock: Clock
    ) -> None:
        provider.discovery = {"issuer": "https://evil.test"}
        keys = source(provider, clock, url=None)
        with pytest.raises(KeysUnavailable):
            await keys.key("key-1", "RS256")
        assert provider.jwks_fetches == 0
        await keys.aclose()

    async def test_not_from_an_unsafe_address(self, provider: IdentityProvider, clock: Clock) -> None:
        provider.discovery = {"jwks_uri": "http://169.254.169.254/keys"}
        keys = source(provider, clock, url=None)
        with pytest.raises(KeysUnavailable):
            await keys.key("key-1", "RS256")
        await keys.aclose()

    async def test_ends_when_closed(self, provider: IdentityProvider, clock: Clock) -> None:
        provider.mood = Mood.SILENT
        keys = source(provider, clock)
        waiting = asyncio.create_task(keys.key("key-1", "RS256"))
        await asyncio.to_thread(provider.called.wait, 10)
        await keys.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting


class TestMetrics:
    async def test_fetches_are_counted_by_outcome(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        def counts() -> list[float]:
            return [metric("plinth_jwks_fetches_total", outcome=outcome) for outcome in ("success", "failure")]

        success, failure = counts()
        began = time.time()
        await keys.key("key-1", "RS256")
        assert counts() == [success + 1, failure]
        last = metric("plinth_jwks_last_success_timestamp_seconds")
        assert began - 1 <= last <= time.time() + 1
        provider.mood = Mood.ERROR
        clock.now += TTL
        await keys.key("key-1", "RS256")
        assert counts() == [success + 1, failure + 1]
        assert metric("plinth_jwks_last_success_timestamp_seconds") == last


class TestKid:
    async def test_absent_with_one_key(self, keys: JwksKeys) -> None:
        assert (await keys.key(None, "RS256")).material == OLD.public

    async def test_absent_with_two_keys(self, keys: JwksKeys, provider: IdentityProvider) -> None:
        provider.keys.append(NEW)
        assert await refusal(keys, None) == Reason.UNKNOWN_KID

    async def test_of_a_key_without_a_name(self, keys: JwksKeys, provider: IdentityProvider) -> None:
        provider.keys = [SigningKey(None, "RS256", OLD.private)]
        assert await keys.key(None, "RS256")
        assert await refusal(keys, "key-1") == Reason.UNKNOWN_KID

    async def test_new_is_fetched(self, keys: JwksKeys, provider: IdentityProvider, clock: Clock) -> None:
        await keys.key("key-1", "RS256")
        provider.keys.append(NEW)
        clock.advance(COOLDOWN)
        assert (await keys.key("key-2", "RS256")).material == NEW.public
        assert provider.jwks_fetches == 2

    async def test_thousand_unknown_ones_in_turn(self, keys: JwksKeys, provider: IdentityProvider) -> None:
        for number in range(1000):
            assert await refusal(keys, f"unknown-{number}") == Reason.UNKNOWN_KID
        assert provider.jwks_fetches == 1

    async def test_thousand_unknown_ones_at_once(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await keys.key("key-1", "RS256")
        clock.advance(COOLDOWN)
        refused = await asyncio.gather(
            *(keys.key(f"unknown-{number}", "RS256") for number in range(1000)), return_exceptions=True
        )
        assert {str(each) for each in refused} == {"unknown_kid"}
        assert provider.jwks_fetches == 2

    async def test_thousand_unknown_ones_over_five_minutes(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        for number in range(1000):
            await refusal(keys, f"unknown-{number}")
            clock.advance(0.3)
        assert provider.jwks_fetches == 10

    async def test_thousand_unknown_ones_during_an_outage(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await keys.key("key-1", "RS256")
        clock.advance(COOLDOWN)
        provider.mood = Mood.ERROR
        for number in range(1000):
            with pytest.raises(KeysUnavailable):  # it may be a new key that cannot be seen from here
                await keys.key(f"unknown-{number}", "RS256")
        assert provider.jwks_fetches == 2
        assert await keys.key("key-1", "RS256")


class TestAge:
    async def test_fresh_keys_are_not_fetched_again(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await keys.key("key-1", "RS256")
        clock.advance(RENEW_AFTER - 1)
        await keys.key("key-1", "RS256")
        assert keys._fetching is None
        assert provider.jwks_fetches == 1

    async def test_ageing_keys_are_renewed_while_nobody_waits(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        before = await keys.key("key-1", "RS256")
        clock.advance(RENEW_AFTER)
        provider.mood = Mood.SILENT
        assert await keys.key("key-1", "RS256") is before
        assert keys._fetching is not None

    async def test_key_that_is_still_there_is_the_same(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        before = await keys.key("key-1", "RS256")
        provider.keys.append(NEW)
        clock.advance(RENEW_AFTER)
        await keys.key("key-1", "RS256")
        await in_background(keys)
        assert await keys.key("key-1", "RS256") is before
        assert not before.retired
        assert await keys.key("key-2", "RS256")
        assert provider.jwks_fetches == 2

    async def test_withdrawn_key_ends_with_its_time(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        withdrawn = await keys.key("key-1", "RS256")
        provider.keys = [NEW]
        clock.advance(TTL)
        assert await refusal(keys, "key-1") == Reason.UNKNOWN_KID
        assert withdrawn.retired

    async def test_key_that_changes_under_its_name_is_another(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        before = await keys.key("key-1", "RS256")
        provider.keys = [SigningKey("key-1", "RS256", NEW.private)]
        clock.advance(TTL)
        assert (await keys.key("key-1", "RS256")).material == NEW.public
        assert before.retired


class TestOutage:
    async def fails(self, keys: JwksKeys) -> None:
        with pytest.raises(KeysUnavailable):
            await keys.key("key-1", "RS256")

    @pytest.mark.parametrize("mood", STALE_ANSWERS)
    async def test_from_the_start(self, keys: JwksKeys, provider: IdentityProvider, clock: Clock, mood: Mood) -> None:
        provider.mood = mood
        await self.fails(keys)
        await self.fails(keys)
        assert provider.jwks_fetches == 1  # no hammering on a door that is closed
        provider.mood = Mood.WELL
        clock.advance(FIRST_COOLDOWN)
        assert await keys.key("key-1", "RS256")

    @pytest.mark.parametrize("mood", STALE_ANSWERS)
    async def test_later_leaves_the_known_keys(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock, mood: Mood
    ) -> None:
        known = await keys.key("key-1", "RS256")
        provider.mood = mood
        clock.advance(TTL)
        assert await keys.key("key-1", "RS256") is known
        assert provider.jwks_fetches == 2
        assert not known.retired

    async def test_refused_connections(self, keys: JwksKeys, provider: IdentityProvider, clock: Clock) -> None:
        provider.down()
        await self.fails(keys)
        provider.up()
        clock.advance(FIRST_COOLDOWN)
        known = await keys.key("key-1", "RS256")
        provider.down()
        clock.advance(TTL)
        assert await keys.key("key-1", "RS256") is known

    @pytest.mark.parametrize("mood", [Mood.TRICKLING, Mood.SILENT])
    async def test_answers_that_do_not_end(self, provider: IdentityProvider, clock: Clock, mood: Mood) -> None:
        provider.mood = mood
        keys = source(provider, clock, deadline=0.1)
        await self.fails(keys)
        await keys.aclose()

    async def test_deadline_is_for_discovery_and_keys_together(
        self, provider: IdentityProvider, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits: list[float | None] = []
        timeout = asyncio.timeout

        def recording(delay: float | None) -> asyncio.Timeout:
            limits.append(delay)
            return timeout(delay)

        monkeypatch.setattr(asyncio, "timeout", recording)
        keys = source(provider, clock, url=None)
        await keys.key("key-1", "RS256")
        await keys.aclose()
        assert limits == [jwks.FETCH_DEADLINE] == [2.5]

    async def test_makes_nobody_wait_who_has_a_key(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        known = await keys.key("key-1", "RS256")
        provider.mood = Mood.ERROR
        clock.advance(RENEW_AFTER)
        for _ in range(20):  # twelve minutes of outage with a request every 36 s
            assert await keys.key("key-1", "RS256") is known
            await in_background(keys)
            clock.advance(36)
        assert provider.jwks_fetches == 21

    async def test_too_long(self, keys: JwksKeys, provider: IdentityProvider, clock: Clock) -> None:
        await keys.key("key-1", "RS256")
        provider.down()
        clock.advance(STALE_LIMIT - 1)
        assert await keys.key("key-1", "RS256")
        clock.advance(1)
        await self.fails(keys)
        provider.up()
        clock.advance(COOLDOWN)
        assert await keys.key("key-1", "RS256")

    async def test_of_any_other_kind(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> dict[str | None, VerificationKey]:
            raise ZeroDivisionError

        known = await keys.key("key-1", "RS256")
        monkeypatch.setattr(jwks, "read_key_set", broken)
        clock.advance(TTL)
        assert await keys.key("key-1", "RS256") is known
        assert await keys.key("key-1", "RS256") is known
        assert provider.jwks_fetches == 2
