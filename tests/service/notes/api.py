"""The endpoints of notes, and the one that has a digest of them made.

Reads run prepared statements on a bare connection; changes use a session.
"""

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from sqlalchemy import bindparam, func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from notes.jobs import Digest, digest
from notes.models import Note
from notes.schemas import DigestRead, NoteChange, NoteCreate, NoteRead
from plinth.api.dependencies import PrincipalDep, SessionDep, state_of
from plinth.api.jobs import path_of_job
from plinth.database.statement import Statement
from plinth.errors import NotFoundError, PreconditionFailedError
from plinth.http.idempotency import IdempotencyKey, answer_once
from plinth.http.preconditions import IfMatch, IfNoneMatch, RequiredIfMatch, etag, matches
from plinth.http.problems import problems
from plinth.http.responses import json_response
from plinth.http.schemas import Page
from plinth.jobs import enqueue

router = APIRouter(tags=["notes"], responses=problems(401, 422, 429, 503))

_COLUMNS: Any = (Note.id, Note.text, Note.tags, Note.version, Note.created_at, Note.updated_at)
_OWNED: Any = select(*_COLUMNS).where(col(Note.owner) == bindparam("owner"), col(Note.deleted_at).is_(None))
_GET = Statement(_OWNED.where(col(Note.id) == bindparam("id")))
_NEWEST = Statement(_OWNED.order_by(col(Note.id).desc()).limit(100))


@router.get("/notes", response_model=Page[NoteRead])
async def list_notes(principal: PrincipalDep, request: Request) -> Any:
    """The caller's newest hundred notes."""
    notes = await state_of(request)["reads"].run(lambda connection: _NEWEST.fetch(connection, owner=principal.owner))
    return json_response({"items": [dict(note) for note in notes], "next_cursor": None})


@router.get(
    "/notes/{note_id}", response_model=NoteRead, responses={304: {"description": "Not Modified"}, **problems(404)}
)
async def read_note(note_id: UUID, principal: PrincipalDep, request: Request, if_none_match: IfNoneMatch = None) -> Any:
    """One note of the caller."""
    async with state_of(request)["database"].connection() as connection:
        note = await _GET.fetchrow(connection, id=note_id, owner=principal.owner)
    if note is None:
        raise NotFoundError("There is no such note.")
    headers = {"ETag": etag(note["version"])}
    if if_none_match is not None and matches(if_none_match, note["version"]):
        return Response(status_code=304, headers=headers)
    return json_response(dict(note), headers=headers)


@router.post("/notes", status_code=201, response_model=NoteRead, responses=problems(400, 409, 413))
async def create_note(
    body: NoteCreate,
    principal: PrincipalDep,
    request: Request,
    session: SessionDep,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """A new note. With an `Idempotency-Key` the same request may be sent again without making a second one."""

    async def work() -> Response:
        note = Note(owner=principal.owner, text=body.text, tags=body.tags)
        session.add(note)
        await session.flush()
        headers = {"Location": f"{request.url.path}/{note.id}", "ETag": etag(note.version)}
        return json_response(NoteRead.model_validate(note).model_dump(), 201, headers)

    if idempotency_key is None:
        return await work()
    return await answer_once(request, session, principal, idempotency_key, work)


@router.patch("/notes/{note_id}", responses=problems(400, 404, 412, 413, 428))
async def change_note(
    note_id: UUID,
    body: NoteChange,
    principal: PrincipalDep,
    if_version: RequiredIfMatch,
    session: SessionDep,
    response: Response,
) -> NoteRead:
    """Change the fields that are sent. `If-Match` says which version they are meant for."""
    note = await _load(session, principal.owner, note_id, if_version)
    for name, value in body.model_dump(exclude_unset=True).items():
        setattr(note, name, value)
    await session.flush()
    response.headers["ETag"] = etag(note.version)
    return NoteRead.model_validate(note)


@router.delete("/notes/{note_id}", status_code=204, responses=problems(404, 412))
async def delete_note(note_id: UUID, principal: PrincipalDep, if_version: IfMatch, session: SessionDep) -> None:
    """Delete a note. It stays in its table for NOTES_KEEP_DAYS."""
    note = await _load(session, principal.owner, note_id, if_version)
    note.deleted_at = func.now()  # type: ignore[assignment]


@router.post("/digests", status_code=202, response_model=DigestRead, responses=problems(400, 409))
async def create_digest(
    principal: PrincipalDep, request: Request, session: SessionDep, idempotency_key: IdempotencyKey = None
) -> Any:
    """Have a note written that sums up the caller's notes. The job says when it is there."""

    async def work() -> Response:
        made = await enqueue(session, digest, Digest(owner=principal.owner), owner=principal.owner)
        return json_response({"job_id": made.id}, 202, {"Location": path_of_job(request, made.id)})

    if idempotency_key is None:
        return await work()
    return await answer_once(request, session, principal, idempotency_key, work)


async def _load(session: AsyncSession, owner: str, note_id: UUID, if_version: frozenset[int] | None) -> Note:
    """A note to change, locked until the session ends."""
    locked = select(Note).where(col(Note.id) == note_id, col(Note.owner) == owner).with_for_update()
    note = (await session.exec(locked)).one_or_none()
    if note is None:
        raise NotFoundError("There is no such note.")
    if if_version is not None and note.version not in if_version:
        raise PreconditionFailedError("The note has changed since you read it.")
    return note
