"""Version 1 of the API: one line a resource."""

from fastapi import APIRouter

from app.api.v1 import exports, items  # sample
from app.api.v1.public import health
from plinth.api import jobs, me, operations

# Side by side instead of included in one another: FastAPI matches a path once for each level of inclusion. For the
# same reason the busiest come first.
router = APIRouter(
    routes=[
        *items.router.routes,  # sample
        *exports.router.routes,  # sample
        *jobs.router.routes,
        *me.router.routes,
        *health.router.routes,
        *operations.router.routes,
    ]
)
