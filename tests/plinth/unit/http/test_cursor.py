"""Cursors return their values for their own list and for no other."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from pydantic import TypeAdapter

from plinth.errors import ValidationError
from plinth.http.cursor import CursorCodec
from plinth.http.schemas import Cursor

cursors = CursorCodec(b"a key")


def refused(context: str, cursor: str) -> bool:
    with pytest.raises(ValidationError) as error:
        cursors.decode(context, cursor)
    return bool(error.value.extra["errors"][0]["loc"] == ["query", "cursor"])


class TestCursors:
    @pytest.mark.parametrize(
        "values", [[], ["lamp", "0190"], [1, None, True, 0.5], ["Grüße 🎉\0\n\u2028"], [["nested"], {"a": "b"}]]
    )
    def test_cursor_decodes_to_its_values(self, values: list[Any]) -> None:
        assert cursors.decode("items", cursors.encode("items", values)) == values

    def test_a_cursor_needs_no_url_encoding(self) -> None:
        for n in range(50):
            cursor = cursors.encode("items", [n, "ÿ" * n])
            assert cursor.replace("-", "").replace("_", "").isalnum()
            assert cursor.isascii()

    @pytest.mark.parametrize("longest", ["🎉" * 200, "\x01" * 200, '"' * 200])
    def test_cursor_of_the_longest_name_is_within_the_limit(self, longest: str) -> None:
        cursor = cursors.encode("items", [longest, "01a20baa-6d04-7aa3-8954-ddc91890df0f"])

        assert TypeAdapter(Cursor).validate_python(cursor) == cursor

    def test_cursor_of_another_list_is_refused(self) -> None:
        cursor = cursors.encode("items of alice", ["lamp"])

        assert refused("items of bob", cursor)
        assert refused("", cursor)

    def test_cursor_signed_with_another_key_is_refused(self) -> None:
        assert refused("items", CursorCodec(b"another key").encode("items", ["lamp"]))

    def test_cursor_is_signed_with_the_first_key_and_read_with_any(self) -> None:
        both = CursorCodec(b"a new key", b"a key")
        assert both.decode("items", cursors.encode("items", ["lamp"])) == ["lamp"]
        assert refused("items", both.encode("items", ["lamp"]))
        assert CursorCodec(b"a new key").decode("items", both.encode("items", ["lamp"])) == ["lamp"]

    def test_a_cursor_with_any_bit_changed_is_refused(self) -> None:
        raw = urlsafe_b64decode(cursors.encode("items", ["lamp"]) + "==")
        for position in range(len(raw)):
            changed = bytearray(raw)
            changed[position] ^= 1
            assert refused("items", urlsafe_b64encode(changed).decode().rstrip("="))

    @pytest.mark.parametrize(
        "cursor", ["", "=", "A", "AAAA", "é", "\0", "\ud800", "!" * 50, "W10", "A" * 1_000_000, "{}", "null"]
    )
    def test_a_forged_cursor_is_refused(self, cursor: str) -> None:
        assert refused("items", cursor)
