"""The JWKS cache: age, rotation, outages and unknown kids. The server is real."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from plinth.identity import jwks
from plinth.identity.documents import Documents
from plinth.identity.errors import KeysUnavailable, Reason, TokenError
from plinth.identity.jwks import COOLDOWN, RENEW_AFTER, RETRY_AFTER, STALE_LIMIT, TTL, JwksKeys
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


async def find(keys: JwksKeys, kid: str | None) -> VerificationKey:
    (key,) = await keys.keys(kid, "RS256")
    return key


async def refusal(keys: JwksKeys, kid: str | None) -> Reason:
    with pytest.raises(TokenError) as caught:
        await find(keys, kid)
    return caught.value.reason


async def in_background(keys: JwksKeys) -> None:
    assert keys._fetching is not None
    await keys._fetching


class TestFetching:
    async def test_keys_are_fetched_once_for_many_tokens(self, keys: JwksKeys, provider: IdentityProvider) -> None:
        found = [await find(keys, "key-1") for _ in range(10)]
        assert {id(key) for key in found} == {id(found[0])}
        assert found[0].material == OLD.public
        assert provider.jwks_fetches == 1

    async def test_keys_are_fetched_once_for_concurrent_tokens(
        self, keys: JwksKeys, provider: IdentityProvider
    ) -> None:
        found = await asyncio.gather(*(find(keys, "key-1") for _ in range(100)))
        assert len(set(map(id, found))) == 1
        assert provider.jwks_fetches == 1

    async def test_fetch_goes_on_when_its_first_waiter_is_cancelled(
        self, keys: JwksKeys, provider: IdentityProvider
    ) -> None:
        first = asyncio.create_task(find(keys, "key-1"))
        await asyncio.sleep(0)
        second = asyncio.create_task(find(keys, "key-1"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        assert provider.jwks_fetches == 1

    async def test_keys_are_not_fetched_before_they_are_needed(
        self, keys: JwksKeys, provider: IdentityProvider
    ) -> None:
        assert provider.fetched == {}

    async def test_keys_are_found_by_discovery(self, provider: IdentityProvider, clock: Clock) -> None:
        keys = source(provider, clock, url=None)
        assert await find(keys, "key-1")
        assert provider.fetched == {DISCOVERY_PATH: 1, "/jwks.json": 1}
        await keys.aclose()

    async def test_keys_are_not_fetched_by_the_discovery_document_of_another_issuer(
        self, provider: IdentityProvider, clock: Clock
    ) -> None:
        provider.discovery = {"issuer": "https://evil.test"}
        keys = source(provider, clock, url=None)
        with pytest.raises(KeysUnavailable):
            await find(keys, "key-1")
        assert provider.jwks_fetches == 0
        await keys.aclose()

    async def test_keys_are_not_fetched_from_an_unsafe_address(self, provider: IdentityProvider, clock: Clock) -> None:
        provider.discovery = {"jwks_uri": "http://169.254.169.254/keys"}
        keys = source(provider, clock, url=None)
        with pytest.raises(KeysUnavailable):
            await find(keys, "key-1")
        await keys.aclose()

    async def test_closing_the_key_source_cancels_a_fetch(self, provider: IdentityProvider, clock: Clock) -> None:
        provider.mood = Mood.SILENT
        keys = source(provider, clock)
        waiting = asyncio.create_task(find(keys, "key-1"))
        await asyncio.to_thread(provider.called.wait, 10)
        await keys.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting


class TestMetrics:
    async def test_jwks_fetches_are_counted_by_issuer_and_outcome(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        def counts(issuer: str) -> list[float]:
            return [
                metric("plinth_jwks_fetches_total", issuer=issuer, outcome=outcome)
                for outcome in ("success", "failure")
            ]

        def last_success(issuer: str) -> float:
            return metric("plinth_jwks_last_success_timestamp_seconds", issuer=issuer)

        another = source(provider, clock, issuer="https://another.test")
        # There from the start, so that the first failure is an increase.
        assert counts(provider.issuer) == counts("https://another.test") == [0, 0]
        assert last_success(provider.issuer) == 0
        began = time.time()
        await find(keys, "key-1")
        assert counts(provider.issuer) == [1, 0]
        last = last_success(provider.issuer)
        assert began - 1 <= last <= time.time() + 1
        provider.mood = Mood.ERROR
        clock.now += TTL
        await find(keys, "key-1")
        assert counts(provider.issuer) == [1, 1]
        assert last_success(provider.issuer) == last
        assert counts("https://another.test") == [0, 0]
        assert last_success("https://another.test") == 0
        await another.aclose()


class TestKid:
    async def test_token_without_a_kid_uses_the_only_key(self, keys: JwksKeys) -> None:
        assert (await find(keys, None)).material == OLD.public

    async def test_token_without_a_kid_is_refused_where_there_are_two_keys(
        self, keys: JwksKeys, provider: IdentityProvider
    ) -> None:
        provider.keys.append(NEW)
        assert await refusal(keys, None) == Reason.UNKNOWN_KID

    async def test_key_without_a_kid_is_for_tokens_without_one(
        self, keys: JwksKeys, provider: IdentityProvider
    ) -> None:
        provider.keys = [SigningKey(None, "RS256", OLD.private)]
        assert await find(keys, None)
        assert await refusal(keys, "key-1") == Reason.UNKNOWN_KID

    async def test_unknown_kid_is_fetched_after_the_cooldown(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await find(keys, "key-1")
        provider.keys.append(NEW)
        clock.advance(COOLDOWN)
        assert (await find(keys, "key-2")).material == NEW.public
        assert provider.jwks_fetches == 2

    async def test_thousand_unknown_kids_in_turn_fetch_the_keys_once(
        self, keys: JwksKeys, provider: IdentityProvider
    ) -> None:
        for number in range(1000):
            assert await refusal(keys, f"unknown-{number}") == Reason.UNKNOWN_KID
        assert provider.jwks_fetches == 1

    async def test_thousand_concurrent_unknown_kids_fetch_the_keys_once_more(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await find(keys, "key-1")
        clock.advance(COOLDOWN)
        refused = await asyncio.gather(
            *(find(keys, f"unknown-{number}") for number in range(1000)), return_exceptions=True
        )
        assert {str(each) for each in refused} == {"unknown_kid"}
        assert provider.jwks_fetches == 2

    async def test_unknown_kids_without_end_fetch_the_keys_every_two_seconds(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        for number in range(200):  # 50 seconds
            await refusal(keys, f"unknown-{number}")
            clock.advance(0.25)
        assert COOLDOWN == 2
        assert provider.jwks_fetches == 25

    async def test_key_published_just_after_an_unknown_kid_is_accepted_two_seconds_later(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await find(keys, "key-1")
        clock.advance(COOLDOWN)
        assert await refusal(keys, "key-2") == Reason.UNKNOWN_KID  # this very kid, before its key is published
        provider.keys.append(NEW)
        clock.advance(COOLDOWN)
        assert (await find(keys, "key-2")).material == NEW.public

    async def test_key_published_under_attack_is_accepted_within_two_seconds(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        async def attack(seconds: float) -> None:
            for number in range(round(seconds * 4)):
                await refusal(keys, f"unknown-{number}")
                clock.advance(0.25)

        await attack(20.25)
        provider.keys.append(NEW)
        await attack(COOLDOWN)
        fetches = provider.jwks_fetches
        assert (await find(keys, "key-2")).material == NEW.public
        assert provider.jwks_fetches == fetches  # fetched for the attack, so the good token did not wait

    async def test_concurrent_tokens_of_a_new_key_share_one_fetch(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await find(keys, "key-1")
        provider.keys.append(NEW)
        clock.advance(COOLDOWN)
        found = await asyncio.gather(
            *(find(keys, kid) for kid in ["key-2", "unknown", "key-1"] * 100), return_exceptions=True
        )
        assert [str(each) for each in found[1::3]] == ["unknown_kid"] * 100
        assert all(getattr(each, "material", None) == NEW.public for each in found[::3])
        assert provider.jwks_fetches == 2

    async def test_thousand_unknown_kids_during_an_outage_fetch_the_keys_once_more(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await find(keys, "key-1")
        clock.advance(COOLDOWN)
        provider.mood = Mood.ERROR
        for number in range(1000):
            with pytest.raises(KeysUnavailable):  # the kid may be of a new key that cannot be fetched now
                await find(keys, f"unknown-{number}")
        assert provider.jwks_fetches == 2
        assert await find(keys, "key-1")


class TestAge:
    async def test_fresh_keys_are_not_fetched_again(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await find(keys, "key-1")
        clock.advance(RENEW_AFTER - 1)
        await find(keys, "key-1")
        assert keys._fetching is None
        assert provider.jwks_fetches == 1

    async def test_ageing_keys_are_renewed_in_the_background(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        before = await find(keys, "key-1")
        clock.advance(RENEW_AFTER)
        provider.mood = Mood.SILENT
        assert await find(keys, "key-1") is before
        assert keys._fetching is not None

    async def test_key_that_is_still_published_keeps_its_identity(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        before = await find(keys, "key-1")
        provider.keys.append(NEW)
        clock.advance(RENEW_AFTER)
        await find(keys, "key-1")
        await in_background(keys)
        assert await find(keys, "key-1") is before
        assert not before.retired
        assert await find(keys, "key-2")
        assert provider.jwks_fetches == 2

    async def test_withdrawn_key_is_retired_after_its_ttl(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        withdrawn = await find(keys, "key-1")
        provider.keys = [NEW]
        clock.advance(TTL)
        assert await refusal(keys, "key-1") == Reason.UNKNOWN_KID
        assert withdrawn.retired

    async def test_key_that_changes_under_the_same_kid_replaces_the_old_one(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        before = await find(keys, "key-1")
        provider.keys = [SigningKey("key-1", "RS256", NEW.private)]
        clock.advance(TTL)
        assert (await find(keys, "key-1")).material == NEW.public
        assert before.retired


class TestOutage:
    async def fails(self, keys: JwksKeys) -> None:
        with pytest.raises(KeysUnavailable):
            await find(keys, "key-1")

    @pytest.mark.parametrize("mood", STALE_ANSWERS)
    async def test_outage_at_the_start_is_retried_after_a_cooldown(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock, mood: Mood
    ) -> None:
        provider.mood = mood
        await self.fails(keys)
        await self.fails(keys)
        assert provider.jwks_fetches == 1  # the cooldown holds back the second fetch
        provider.mood = Mood.WELL
        clock.advance(COOLDOWN)
        assert await find(keys, "key-1")

    @pytest.mark.parametrize("mood", STALE_ANSWERS)
    async def test_known_keys_stay_valid_during_a_later_outage(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock, mood: Mood
    ) -> None:
        known = await find(keys, "key-1")
        provider.mood = mood
        clock.advance(TTL)
        assert await find(keys, "key-1") is known
        assert provider.jwks_fetches == 2
        assert not known.retired

    async def test_known_keys_stay_valid_while_connections_are_refused(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        provider.down()
        await self.fails(keys)
        provider.up()
        clock.advance(COOLDOWN)
        known = await find(keys, "key-1")
        provider.down()
        clock.advance(TTL)
        assert await find(keys, "key-1") is known

    @pytest.mark.parametrize("mood", [Mood.TRICKLING, Mood.SILENT])
    async def test_fetch_of_an_endless_response_times_out(
        self, provider: IdentityProvider, clock: Clock, mood: Mood
    ) -> None:
        provider.mood = mood
        keys = source(provider, clock, deadline=0.1)
        await self.fails(keys)
        await keys.aclose()

    async def test_one_deadline_covers_discovery_and_keys(
        self, provider: IdentityProvider, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits: list[float | None] = []
        timeout = asyncio.timeout

        def recording(delay: float | None) -> asyncio.Timeout:
            limits.append(delay)
            return timeout(delay)

        monkeypatch.setattr(asyncio, "timeout", recording)
        keys = source(provider, clock, url=None)
        await find(keys, "key-1")
        await keys.aclose()
        assert limits == [jwks.FETCH_DEADLINE] == [2.5]

    async def test_outage_does_not_delay_tokens_of_known_keys(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        known = await find(keys, "key-1")
        provider.mood = Mood.ERROR
        clock.advance(RENEW_AFTER)
        for _ in range(200):  # ten minutes of outage with a request every three seconds
            assert await find(keys, "key-1") is known
            if keys._fetching is not None:
                await in_background(keys)
            clock.advance(3)
        assert provider.jwks_fetches == 1 + 600 / RETRY_AFTER

    async def test_known_keys_expire_in_a_long_outage(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock
    ) -> None:
        await find(keys, "key-1")
        provider.down()
        clock.advance(STALE_LIMIT - 1)
        assert await find(keys, "key-1")
        clock.advance(1)
        await self.fails(keys)
        provider.up()
        clock.advance(COOLDOWN)
        assert await find(keys, "key-1")

    async def test_issuer_with_another_key_source_may_publish_no_key_yet(
        self, provider: IdentityProvider, clock: Clock
    ) -> None:
        keys = source(provider, clock, may_be_empty=True)
        provider.mood = Mood.NO_KEYS
        assert await refusal(keys, "key-1") == Reason.UNKNOWN_KID  # not KeysUnavailable: no outage
        provider.mood = Mood.WELL
        clock.advance(COOLDOWN)
        known = await find(keys, "key-1")
        provider.mood = Mood.NO_KEYS
        clock.advance(TTL)
        assert await find(keys, "key-1") is known
        await keys.aclose()

    async def test_unexpected_error_of_a_fetch_leaves_the_known_keys_valid(
        self, keys: JwksKeys, provider: IdentityProvider, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> dict[str | None, VerificationKey]:
            raise ZeroDivisionError

        known = await find(keys, "key-1")
        monkeypatch.setattr(jwks, "read_key_set", broken)
        clock.advance(TTL)
        assert await find(keys, "key-1") is known
        assert await find(keys, "key-1") is known
        assert provider.jwks_fetches == 2
