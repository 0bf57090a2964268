"""Exports: the reference for what takes longer than a request. Ask for one, follow its job, fetch its file."""

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
from plinth.http.idempotency import IdempotencyKey, answer_once
from plinth.http.preconditions import IfNoneMatch
from plinth.http.problems import problems
from plinth.http.ranges import IfRange, Range, requested_part
from plinth.http.responses import json_response

router = APIRouter(prefix="/exports", tags=["exports"], responses=problems(401, 422, 429, 503))

_CONTENT_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}

_LOCATION = {"Location": {"description": "Where the new export is.", "schema": {"type": "string"}}}
_FILE_HEADERS = {
    name: {"description": description, "schema": {"type": "string"}}
    for name, description in {
        "ETag": "The file's SHA-256.",
        "Accept-Ranges": "bytes",
        "Content-Disposition": "A name to save it under.",
    }.items()
}
_CONTENT_RANGE = {"Content-Range": {"description": "Which part it is.", "schema": {"type": "string"}}}
_FILE = {media_type.partition(";")[0]: {"schema": {"type": "string"}} for media_type in _CONTENT_TYPES.values()}
_CONTENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": _FILE, "headers": _FILE_HEADERS},
    206: {"description": "A part of it.", "content": _FILE, "headers": _FILE_HEADERS | _CONTENT_RANGE},
    304: {"description": "Not Modified"},
    **problems(404, 409, 416),
}


@router.post(
    "",
    status_code=202,
    response_model=ExportRead,
    responses={202: {"headers": _LOCATION}, **problems(400, 409, 413)},
)
async def create_export(
    body: ExportCreate,
    principal: PrincipalDep,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Have a file made of the caller's items. It is accepted when this is answered, and ready when its job is done."""
    state = state_of(request)
    keep = timedelta(days=settings_of(request).EXPORTS_KEEP_DAYS)
    async with state["database"].session() as session:

        async def work() -> Response:
            export = await exports.request_export(
                session, principal.subject, format=body.format, tag=body.tag, keep=keep
            )
            headers = {"Location": f"{request.url.path}/{export['id']}"}
            return json_response(_described(request, export).model_dump(), 202, headers)

        if idempotency_key is None:
            return await work()
        return await answer_once(request, session, principal, idempotency_key, work)


@router.get("/{export_id}", responses=problems(404))
async def read_export(export_id: UUID, principal: PrincipalDep, request: Request) -> ExportRead:
    """One export of the caller, and how far it is."""
    async with state_of(request)["database"].connection() as connection:
        return _described(request, await exports.get_export(connection, principal.subject, export_id))


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
    """The file of an export that is ready. Broken off, it can be fetched from there on."""
    database = state_of(request)["database"]
    async with database.connection() as connection:
        export = await exports.get_export(connection, principal.subject, export_id)
    if export["ready_at"] is None:
        raise ExportNotReadyError(f"There is no file yet: the export is {export['status']}.")
    etag, size = f'"{export["digest"]}"', export["size"]
    # Kept by the caller alone, and asked about each time: what the ETag is for.
    headers = {"ETag": etag, "Cache-Control": "private, no-cache, no-transform"}
    if if_none_match is not None and (if_none_match.strip() == "*" or etag in if_none_match):
        return Response(status_code=304, headers=headers)
    headers |= {
        "Content-Type": _CONTENT_TYPES[export["format"]],
        "Content-Disposition": f'attachment; filename="items-{export["ready_at"]:%Y-%m-%d}.{export["format"]}"',
        "Accept-Ranges": "bytes",
        # Positions, length and ETag are those of these very bytes: this keeps GZipMiddleware off them.
        "Content-Encoding": "identity",
        "Content-Length": str(size),
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    part = requested_part(range_, if_range, etag=etag, size=size)
    start, stop = part or (0, size)
    if part is not None:
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "Content-Length": str(stop - start)}
    # Should the file vanish meanwhile, this raises and the connection breaks: fewer bytes never look like all of them.
    content = exports.read_content(database, export_id, run=export["run"], start=start, stop=stop)
    return StreamingResponse(content, 200 if part is None else 206, headers)


def _described(request: Request, export: dict[str, Any]) -> ExportRead:
    api = state_of(request)["settings"].API_V1_STR
    job = f"{api}/jobs/{export['job_id']}"
    content = f"{api}/exports/{export['id']}/content" if export["ready_at"] is not None else None
    return ExportRead(**export, links=ExportLinks(job=job, events=f"{job}/events", content=content))
