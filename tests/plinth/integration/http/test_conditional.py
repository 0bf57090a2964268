"""Conditional requests whose headers come in several lines."""

from typing import Any

import httpx

from notes.config import Settings
from notes.main import create_app
from plinth.testing import problem
from tests.support.notes import note


async def test_second_line_of_if_none_match_counts(api: httpx.AsyncClient) -> None:
    made = (await api.post("/notes", json=note())).json()
    for lines, status in ((('"7"', '"1"'), 304), (('"1"', '"7"'), 304), (('"7"', '"8"'), 200)):
        headers = [("If-None-Match", line) for line in lines]
        assert (await api.get(f"/notes/{made['id']}", headers=headers)).status_code == status


async def test_second_line_of_if_match_counts(api: httpx.AsyncClient) -> None:
    made = (await api.post("/notes", json=note())).json()
    path = f"/notes/{made['id']}"
    refused = [("If-Match", '"7"'), ("If-Match", '"8"')]
    problem(await api.patch(path, json={"text": "b"}, headers=refused), 412)
    problem(await api.patch(path, json={"text": "b"}), 428)
    accepted = [("If-Match", '"7"'), ("If-Match", '"1"')]
    assert (await api.patch(path, json={"text": "b"}, headers=accepted)).status_code == 200
    assert (await api.delete(path, headers=[("If-Match", '"1"'), ("If-Match", '"2"')])).status_code == 204


def test_document_describes_one_line(settings: Settings) -> None:
    document: Any = create_app(settings).openapi()["paths"]["/api/v1/notes/{note_id}"]
    for method, name in (("get", "If-None-Match"), ("patch", "If-Match"), ("delete", "If-Match")):
        (parameter,) = [found for found in document[method]["parameters"] if found["name"] == name]
        schema = parameter["schema"]
        assert "string" in [schema.get("type"), *(kind["type"] for kind in schema.get("anyOf", []))], schema
        assert "array" not in str(schema)
