"""The application as a whole, on a database."""

from collections.abc import Callable
from typing import Any

from app.main import create_app
from plinth.database.engine import WARM_CONNECTIONS
from plinth.testing import open_client
from tests.support.metrics import metric


class TestStart:
    async def test_startup_opens_connections_for_the_first_callers(self, make_settings: Callable[..., Any]) -> None:
        connections = {"db_client_connection_pool_name": "main"}
        before = metric("db_client_connection_count", **connections)
        async with open_client(create_app(make_settings())):
            assert metric("db_client_connection_count", **connections) - before >= WARM_CONNECTIONS
