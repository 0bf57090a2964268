"""Waiting for a condition."""

import pytest

from plinth.testing import until


async def test_it_returns_what_the_condition_found() -> None:
    looks = iter([None, 0, "", "found"])

    assert await until(lambda: next(looks)) == "found"


async def test_the_condition_may_be_a_coroutine_function() -> None:
    looks = iter([False, True])

    async def condition() -> bool:
        return next(looks)

    assert await until(condition) is True


async def test_a_condition_that_never_holds_is_named() -> None:
    def ready() -> bool:
        return False

    with pytest.raises(TimeoutError, match=r"ready does not hold after 0\.05 s"):
        await until(ready, timeout=0.05)
