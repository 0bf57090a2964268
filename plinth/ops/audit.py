"""The page of the audit log: what operators did."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from starlette.responses import Response

from plinth.api.dependencies import SessionDep
from plinth.audit import list_records
from plinth.ops.filters import read_id, read_text, read_time
from plinth.ops.pages import page, page_router
from plinth.ops.session import ReaderDep
from plinth.telemetry.redaction import redact

__all__ = ["router"]

router = page_router()

LIMIT = 50
_READERS: dict[str, Callable[[str], object]] = {
    "actor": read_text,
    "action": read_text,
    "target": read_text,
    "since": read_time,
    "before": read_id,
}


@router.get("/audit")
async def show_audit(request: Request, operator: ReaderDep, session: SessionDep) -> Response:
    """The records that fit the filters in the address, the newest first."""
    typed = {name: request.query_params.get(name, "").strip() for name in _READERS}
    problems: dict[str, str] = {}
    read: dict[str, Any] = {}
    for name, text in typed.items():
        try:
            read[name] = _READERS[name](text) if text else None
        except ValueError as error:
            problems[name] = str(error)
    records = [] if problems else await list_records(session, **read, limit=LIMIT + 1)
    older = None
    if len(records) > LIMIT:
        records = records[:LIMIT]
        given = {name: text for name, text in typed.items() if text} | {"before": str(records[-1].id)}
        older = f"?{urlencode(given)}"
    return page(
        request,
        "audit.html",
        status=422 if problems else 200,
        typed=typed,
        problems=problems,
        records=[(record, _said(record.detail)) for record in records],
        older=older,
    )


def _said(detail: dict[str, Any]) -> str:
    """The detail of a record without what was not given, its secrets masked."""
    given = {name: value for name, value in detail.items() if value not in (None, [], "")}
    redact(given)
    return ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in given.items())
