"""Exports: the model for work that takes longer than a request. Create one, follow its job, download its file."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from app.api.deps import settings_of
from app.business import exports
from app.core.exceptions import ExportNotReadyError
from app.schemas.export import ExportCreate, ExportLinks, ExportRead
from plinth.api.dependencies import PrincipalDep, state_of
from plinth.api.jobs import path_of_job
from plinth.http.headers import location_of, path_in_api, with_headers
from plinth.http.idempotency import IdempotencyKey, answer_once
from plinth.http.preconditions import IfNoneMatch, etag, matches
from plinth.http.problems import problems
from plinth.http.ranges import IfRange, Range, requested_part
from plinth.http.responses import json_response

router = APIRouter(prefix="/exports", tags=["exports"], responses=problems(401, 422, 429, 503))

_CONTENT_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}

_FILE = {media_type.partition(";")[0]: {"schema": {"type": "string"}} for media_type in _CONTENT_TYPES.values()}
_FILE_HEADERS = ("ETag", "Accept-Ranges", "Content-Disposition")
_CONTENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": _FILE, **with_headers(*_FILE_HEADERS)},
    206: {"description": "A part of the file.", "content": _FILE, **with_headers(*_FILE_HEADERS, "Content-Range")},
    304: {"description": "Not Modified"},
    **problems(404, 409, 416),
}


@router.post(
    "",
    status_code=202,
    response_model=ExportRead,
    responses={202: with_headers("Location"), **problems(400, 409, 413)},
)
async def create_export(
    body: ExportCreate,
    principal: PrincipalDep,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Create an export of the caller's items. Its file is ready when its job has succeeded."""
    state = state_of(request)
    keep = timedelta(days=settings_of(request).EXPORTS_KEEP_DAYS)
    async with state["database"].session() as session:

        async def work() -> Response:
            export = await exports.request_export(session, principal.owner, format=body.format, tag=body.tag, keep=keep)
            headers = {"Location": location_of(request, export["id"])}
            return json_response(_described(request, export).model_dump(), 202, headers)

        return await answer_once(request, session, principal, idempotency_key, work)


@router.get("/{export_id}", responses=problems(404))
async def read_export(export_id: UUID, principal: PrincipalDep, request: Request) -> ExportRead:
    """One export of the caller, with its status."""
    async with state_of(request)["database"].connection() as connection:
        return _described(request, await exports.get_export(connection, principal.owner, export_id))


@router.head("/{export_id}/content", response_class=Response, responses=_CONTENT_RESPONSES)
@router.get("/{export_id}/content", response_class=Response, responses=_CONTENT_RESPONSES)
async def read_content(
    export_id: UUID,
    principal: PrincipalDep,
    request: Request,
    range_: Range = None,
    if_range: IfRange = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The file of an export that is ready. `Range` continues a download that was interrupted."""
    database = state_of(request)["database"]
    async with database.connection() as connection:
        export = await exports.get_export(connection, principal.owner, export_id)
    if export["ready_at"] is None:
        raise ExportNotReadyError(f"There is no file yet: the export is {export['status']}.")
    size, tag = export["size"], etag(export["digest"])
    # For the caller's cache alone, which asks with the ETag before each use.
    headers = {"ETag": tag, "Cache-Control": "private, no-cache, no-transform"}
    if if_none_match is not None and matches(if_none_match, export["digest"]):
        return Response(status_code=304, headers=headers)
    headers |= {
        "Content-Type": _CONTENT_TYPES[export["format"]],
        "Content-Disposition": f'attachment; filename="items-{export["ready_at"]:%Y-%m-%d}.{export["format"]}"',
        "Accept-Ranges": "bytes",
        # Ranges, length and ETag are those of the uncompressed bytes: this keeps GZipMiddleware from compressing them.
        "Content-Encoding": "identity",
        "Content-Length": str(size),
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    part = requested_part(range_, if_range, etag=tag, size=size)
    start, stop = part or (0, size)
    if part is not None:
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "Content-Length": str(stop - start)}
    # If the file expires meanwhile, this raises and the connection breaks, so a short file never looks complete.
    content = await exports.read_content(database, export_id, run=export["run"], start=start, stop=stop)
    return StreamingResponse(content, 200 if part is None else 206, headers)


def _described(request: Request, export: dict[str, Any]) -> ExportRead:
    job = path_of_job(request, export["job_id"])
    content = path_in_api(request, f"/exports/{export['id']}/content") if export["ready_at"] is not None else None
    return ExportRead(**export, links=ExportLinks(job=job, events=f"{job}/events", content=content))
