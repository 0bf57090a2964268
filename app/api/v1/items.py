"""Items: the model for a resource.

Reads are fast (bare connection, JSON without a response model), changes are plain (session, response model). The list
may lag behind them: it comes from the replica, if there is one.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.api.deps import SessionDep
from app.business import items
from app.schemas.item import ItemCreate, ItemQuery, ItemRead, ItemUpdate
from plinth.api.dependencies import PrincipalDep, state_of
from plinth.http.headers import location_of, with_headers
from plinth.http.idempotency import IdempotencyKey, answer_once
from plinth.http.pagination import Pager
from plinth.http.preconditions import IfMatch, IfNoneMatch, RequiredIfMatch, etag, matches
from plinth.http.problems import problems
from plinth.http.responses import json_response
from plinth.http.schemas import Page

router = APIRouter(prefix="/items", tags=["items"], responses=problems(401, 422, 429, 503))


@router.get(
    "/{item_id}",
    response_model=ItemRead,
    responses={200: with_headers("ETag"), 304: {"description": "Not Modified"}, **problems(404)},
)
async def read_item(item_id: UUID, principal: PrincipalDep, request: Request, if_none_match: IfNoneMatch = None) -> Any:
    """One item of the caller."""
    async with state_of(request)["database"].connection() as connection:
        item = await items.get_item(connection, principal.owner, item_id)
    # For the caller's cache alone, which asks with the ETag before each use.
    headers = {"ETag": etag(item["version"]), "Cache-Control": "private, no-cache"}
    if if_none_match is not None and matches(if_none_match, item["version"]):
        return Response(status_code=304, headers=headers)
    return json_response(dict(item), headers=headers)


@router.get("", response_model=Page[ItemRead], responses={200: with_headers("Link")})
async def list_items(query: Annotated[ItemQuery, Query()], principal: PrincipalDep, request: Request) -> Any:
    """The caller's items, a page at a time."""
    pager = Pager(request, principal, query, items.order_of(query.sort, tagged=query.tag is not None))
    found = await state_of(request)["reads"].run(
        lambda connection: items.list_items(connection, principal.owner, pager.slice, tag=query.tag)
    )
    return pager.response(found)


@router.post(
    "",
    status_code=201,
    response_model=ItemRead,
    responses={201: with_headers("ETag", "Location"), **problems(400, 409, 413)},
)
async def create_item(
    body: ItemCreate,
    principal: PrincipalDep,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Create an item. With an `Idempotency-Key`, a request that is sent again creates no second one."""
    database = state_of(request)["database"]
    values = {"name": body.name, "description": body.description, "tags": body.tags}
    if idempotency_key is None:
        async with database.connection() as connection:
            record = await items.create_item(connection, principal.owner, **values)
        return _created(request, dict(record))
    async with database.session() as session:

        async def work() -> Response:
            item = await items.create_item_in(session, principal.owner, **values)
            return _created(request, ItemRead.model_validate(item).model_dump())

        return await answer_once(request, session, principal, idempotency_key, work)


@router.patch(
    "/{item_id}",
    responses={200: with_headers("ETag"), **problems(400, 404, 412, 413, 428)},
)
async def update_item(
    item_id: UUID,
    body: ItemUpdate,
    principal: PrincipalDep,
    if_version: RequiredIfMatch,
    session: SessionDep,
    response: Response,
) -> ItemRead:
    """Change the fields that are sent. `If-Match` names the version that the client has read."""
    item = await items.update_item(
        session, principal.owner, item_id, body.model_dump(exclude_unset=True), if_version=if_version
    )
    response.headers["ETag"] = etag(item.version)
    return ItemRead.model_validate(item)


@router.delete("/{item_id}", status_code=204, responses=problems(404, 412))
async def delete_item(item_id: UUID, principal: PrincipalDep, if_version: IfMatch, session: SessionDep) -> None:
    """Delete an item. With `If-Match`, only the version that the client has read."""
    await items.delete_item(session, principal.owner, item_id, if_version=if_version)


def _created(request: Request, item: dict[str, Any]) -> Response:
    headers = {"Location": location_of(request, item["id"]), "ETag": etag(item["version"])}
    return json_response(item, 201, headers)
