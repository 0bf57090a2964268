"""Version 1 of the API: one line for each resource."""

from fastapi import APIRouter

from app.api.v1 import exports, items  # sample
from app.api.v1.public import health
from plinth.api import audit, jobs, me, queues, schedules, workers

# The routes themselves instead of `include_router`: FastAPI matches a path once for each level of inclusion. For the
# same reason the busiest come first.
router = APIRouter(
    routes=[
        *items.router.routes,  # sample
        *exports.router.routes,  # sample
        *jobs.router.routes,
        *me.router.routes,
        *health.router.routes,
        *queues.router.routes,
        *workers.router.routes,
        *schedules.router.routes,
        *audit.router.routes,
    ]
)

# What /docs says of the service's own tags, in its order.
TAGS: list[dict[str, str]] = [
    # {"name": "orders", "description": "What customers have ordered."}
    {"name": "items", "description": "Things with a name, a text and tags."},  # sample
    {"name": "exports", "description": "Files of items, which a job writes."},  # sample
]
