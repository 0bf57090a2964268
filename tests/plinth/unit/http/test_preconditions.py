"""Which versions a client means by its `If-Match` and `If-None-Match`."""

import pytest

from plinth.http.preconditions import _versions, etag, matches


class TestIfMatch:
    @pytest.mark.parametrize(
        ("header", "versions"),
        [
            (None, None),
            ("*", None),
            (" *\t", None),
            ('"1"', {1}),
            ('"1","2" ,  "2147483647"', {1, 2, 2147483647}),
            ('W/"1", "2"', {2}),
            ('"a", "", "1"', {1}),
            ('"a,b", "1"', {1}),
            ('"1", *', {1}),
        ],
    )
    async def test_names_versions(self, header: str | None, versions: object) -> None:
        assert await _versions(header) == versions

    @pytest.mark.parametrize(
        "header",
        ["", " ", "1", '"', '""', '"1', "W/", 'W/"1"', '"01"', '"0"', '"-1"', '"1.0"', '" 1"', '"1e3"', '"²"', "**",
         '"' + "9" * 5000 + '"'],
    )  # fmt: skip
    async def test_names_none_that_there_ever_was(self, header: str) -> None:
        assert await _versions(header) == frozenset()

    async def test_is_made_of_what_etag_makes(self) -> None:
        for version in (1, 9, 10, 2**31 - 1):
            assert await _versions(etag(version)) == frozenset({version})
            assert matches(etag(version), version)


class TestIfNoneMatch:
    @pytest.mark.parametrize("header", ["*", " * ", '"7"', 'W/"7"', '"1", W/"7"', '"a,b","7"'])
    def test_matches(self, header: str) -> None:
        assert matches(header, 7)

    @pytest.mark.parametrize("header", ["", "7", '"77"', '"07"', '"7', 'W/7, "8"', "**", '"*"'])
    def test_matches_not(self, header: str) -> None:
        assert not matches(header, 7)
