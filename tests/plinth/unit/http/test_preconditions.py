"""The versions in `If-Match` and `If-None-Match`."""

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
    async def test_if_match_header_is_parsed_into_versions(self, header: str | None, versions: object) -> None:
        assert await _versions(None if header is None else [header]) == versions

    @pytest.mark.parametrize(
        "header",
        ["", " ", "1", '"', '""', '"1', "W/", 'W/"1"', '"01"', '"0"', '"-1"', '"1.0"', '" 1"', '"1e3"', '"²"', "**",
         '"' + "9" * 5000 + '"'],
    )  # fmt: skip
    async def test_malformed_or_weak_if_match_header_matches_no_version(self, header: str) -> None:
        assert await _versions([header]) == frozenset()

    async def test_if_match_accepts_the_etag_of_a_version(self) -> None:
        for version in (1, 9, 10, 2**31 - 1):
            assert await _versions([etag(version)]) == frozenset({version})
            assert matches(etag(version), version)


class TestIfNoneMatch:
    @pytest.mark.parametrize("header", ["*", " * ", '"7"', 'W/"7"', '"1", W/"7"', '"a,b","7"'])
    def test_if_none_match_header_with_the_current_version_matches(self, header: str) -> None:
        assert matches(header, 7)

    @pytest.mark.parametrize("header", ["", "7", '"77"', '"07"', '"7', 'W/7, "8"', "**", '"*"'])
    def test_if_none_match_header_with_another_version_does_not_match(self, header: str) -> None:
        assert not matches(header, 7)


class TestSeveralLines:
    """A list may come in several lines of the header (RFC 9110, 5.3)."""

    @pytest.mark.parametrize(
        ("lines", "versions"),
        [
            (['"1"', '"2"'], {1, 2}),
            (['"1", W/"2"', "", '"3"'], {1, 3}),
            (['W/"1"', "garbage"], set()),
            ([" * "], None),
        ],
    )
    async def test_if_match_is_the_list_of_all_its_lines(self, lines: list[str], versions: object) -> None:
        assert await _versions(lines) == versions

    @pytest.mark.parametrize("lines", [['"1"', '"7"'], ['"7"', '"1"'], ["", 'W/"7"'], ["*"]])
    def test_if_none_match_is_the_list_of_all_its_lines(self, lines: list[str]) -> None:
        assert matches(lines, 7)
