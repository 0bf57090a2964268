"""The headers `Range` and `If-Range`."""

import pytest

from plinth.http.ranges import RangeNotSatisfiableError, requested_part

ETAG = '"abc"'
SIZE = 1000


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-999", (0, 1000)),
        ("bytes=0-1000", (0, 1000)),
        ("bytes=0-", (0, 1000)),
        ("bytes=999-", (999, 1000)),
        ("bytes=999-999", (999, 1000)),
        ("bytes=500-600", (500, 601)),
        ("bytes=-1", (999, 1000)),
        ("bytes=-1000", (0, 1000)),
        ("bytes=-5000", (0, 1000)),
        ("bytes=1-99999999999999999999999999", (1, 1000)),
        ("BYTES=1-2", (1, 3)),
        (" bytes= 1-2 ", (1, 3)),
    ],
)
def test_range_header_selects_bytes(header: str, part: tuple[int, int]) -> None:
    assert requested_part(header, None, etag=ETAG, size=SIZE) == part


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-1001", "bytes=-0", f"bytes={'9' * 100}-"])
def test_range_outside_of_the_file_is_refused_with_416(header: str) -> None:
    with pytest.raises(RangeNotSatisfiableError) as caught:
        requested_part(header, None, etag=ETAG, size=SIZE)
    assert caught.value.status == 416
    assert caught.value.headers == {"Content-Range": "bytes */1000"}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=2-1",
        "bytes=a-b",
        "bytes=1-2,4-5",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=1-2-3",
        "bytes=\u0661-\u0662",
        "items=1-2",
        f"bytes={'9' * 10_000}-",
    ],
)
def test_malformed_or_multiple_range_header_is_ignored(header: str | None) -> None:
    assert requested_part(header, None, etag=ETAG, size=SIZE) is None


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=5-6"])
def test_range_of_an_empty_file_is_ignored(header: str) -> None:
    assert requested_part(header, None, etag=ETAG, size=0) is None


@pytest.mark.parametrize(("if_range", "part"), [(ETAG, (1, 3)), (f" {ETAG} ", (1, 3))])
def test_range_counts_when_if_range_has_the_current_etag(if_range: str, part: tuple[int, int]) -> None:
    assert requested_part("bytes=1-2", if_range, etag=ETAG, size=SIZE) == part


@pytest.mark.parametrize("if_range", ['"abd"', 'W/"abc"', "abc", "*", "", "Wed, 25 Nov 2026 17:51:19 GMT"])
def test_range_is_ignored_when_if_range_has_another_validator(if_range: str) -> None:
    assert requested_part("bytes=1-2", if_range, etag=ETAG, size=SIZE) is None
    assert requested_part("bytes=5000-", if_range, etag=ETAG, size=SIZE) is None
