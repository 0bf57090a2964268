"""`until` waits for a condition."""

import pytest

from plinth.testing import until


async def test_until_returns_the_value_of_the_condition() -> None:
    looks = iter([None, 0, "", "found"])

    assert await until(lambda: next(looks)) == "found"


async def test_until_accepts_a_coroutine_function() -> None:
    looks = iter([False, True])

    async def condition() -> bool:
        return next(looks)

    assert await until(condition) is True


async def test_until_names_a_condition_that_never_holds() -> None:
    def ready() -> bool:
        return False

    with pytest.raises(TimeoutError, match=r"ready does not hold after 0\.05 s"):
        await until(ready, timeout=0.05)
