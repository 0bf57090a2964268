"""What the OpenAPI document says beside the endpoints: the names of operations, and what the platform's tags mean."""

import re

from fastapi.routing import APIRoute

__all__ = ["TAGS", "operation_id"]

TAGS = [
    {"name": "jobs", "description": "Work that goes on after a request: follow it, cancel it, retry it."},
    {"name": "me", "description": "The caller, as its token describes it."},
    {"name": "health", "description": "Whether this process lives, and whether it can serve. Without a token."},
    {"name": "queues", "description": "For operators: what waits, and pause."},
    {"name": "workers", "description": "For operators: the processes that run jobs."},
    {"name": "schedules", "description": "For operators: what is enqueued at set times, pause, and run now."},
    {"name": "audit", "description": "For operators: what operators did."},
]
"""The `openapi_tags` of the platform's routers."""


def operation_id(route: APIRoute) -> str:
    """The operationId of a route: `items_create` for `create_item` with the tag `items`.

    That is the first tag and the function's name, without the words of the tag: generators of clients make `create` in
    `items` of it. A HEAD beside a GET of the same function ends in `head`.
    """
    tag = re.findall(r"[a-z0-9]+", str(route.tags[0]).lower()) if route.tags else []
    own = {form for word in tag for form in (word, word.removesuffix("s"), re.sub("ies$", "y", word))}
    words = [*tag, *(word for word in route.name.split("_") if word not in own)]
    if route.methods == {"HEAD"}:
        words.append("head")
    return "_".join(words)
