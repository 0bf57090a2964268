"""The opponent: the smallest FastAPI + asyncpg program that does the work which `http.py` here measures.

One file, as one would write it on the first day: no middleware, logs, limits, error documents or ETags. It is
as fast as that style gets; `README.md` says which variants were tried and what they cost.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import UUID

import asyncpg
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from pydantic import BaseModel

KEY = cast(RSAPublicKey, load_pem_public_key(Path(os.environ["JWT_PUBLIC_KEY"]).read_bytes()))
ISSUER = os.environ["JWT_ISSUER"]
AUDIENCE = os.environ["JWT_AUDIENCE"]

# Not of the smallest program: one row of the table grants it the service's cache (and does not let it expire).
CACHE_VERDICTS = "CACHE_VERDICTS" in os.environ
verdicts: dict[str, str] = {}

COLUMNS = "id, name, description, tags, version, created_at, updated_at"
GET = f"SELECT {COLUMNS} FROM item WHERE id = $1 AND owner = $2 AND deleted_at IS NULL"
LIST = f"SELECT {COLUMNS} FROM item WHERE owner = $1 AND deleted_at IS NULL ORDER BY created_at DESC, id DESC LIMIT $2"
CREATE = f"INSERT INTO item (owner, name, description, tags) VALUES ($1, $2, $3, $4) RETURNING {COLUMNS}"


class NewItem(BaseModel):
    name: str
    description: str | None = None
    tags: list[str] = []


class Item(BaseModel):
    id: UUID
    name: str
    description: str | None
    tags: list[str]
    version: int
    created_at: datetime
    updated_at: datetime


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=int(os.environ["POOL_MIN"]), max_size=int(os.environ["POOL_MAX"])
    ) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


async def owner_of(authorization: Annotated[str, Header()]) -> str:
    token = authorization.removeprefix("Bearer ")
    if CACHE_VERDICTS and token in verdicts:
        return verdicts[token]
    try:
        claims = jwt.decode(
            token,
            KEY,
            algorithms=["RS256"],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": ["exp", "iat", "sub", "iss", "aud"]},
        )
    except jwt.PyJWTError as error:
        raise HTTPException(401) from error
    subject: str = claims["sub"]
    if CACHE_VERDICTS:
        verdicts[token] = subject
    return subject


Owner = Annotated[str, Depends(owner_of)]


@app.get("/api/v1/public/health")
async def health() -> dict[str, str]:
    return {"status": "alive"}


@app.get("/api/v1/items/{item_id}", response_model=Item)
async def get_item(item_id: UUID, owner: Owner, request: Request) -> Any:
    row = await request.app.state.pool.fetchrow(GET, item_id, owner)
    if row is None:
        raise HTTPException(404)
    return dict(row)


@app.get("/api/v1/items", response_model=list[Item])
async def list_items(owner: Owner, request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Any:
    return [dict(row) for row in await request.app.state.pool.fetch(LIST, owner, limit)]


@app.post("/api/v1/items", status_code=201, response_model=Item)
async def create_item(item: NewItem, owner: Owner, request: Request) -> Any:
    row = await request.app.state.pool.fetchrow(CREATE, owner, item.name, item.description, item.tags)
    return dict(row)
