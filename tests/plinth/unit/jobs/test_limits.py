"""What a limit may be."""

from typing import Any

import pytest

from plinth.jobs import Limit


class TestLimit:
    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({}, "max_running, or max_starts"),
            ({"max_running": 0}, "max_running is 1 or more"),
            ({"max_starts": 3}, "belong together"),
            ({"per": 3.0}, "max_running, or max_starts"),
            ({"max_running": 1, "per": 3.0}, "belong together"),
            ({"max_starts": 0, "per": 3.0}, "1 to 10000"),
            ({"max_starts": 10_001, "per": 3.0}, "1 to 10000"),
            ({"max_starts": 1, "per": 0.0}, "above 0 seconds"),
            ({"max_starts": 1, "per": float("nan")}, "above 0 seconds"),
            ({"max_starts": 1, "per": 86_401.0}, "86400 at most"),
        ],
    )
    def test_limit_out_of_range_is_refused(self, limits: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Limit(str, **limits)
