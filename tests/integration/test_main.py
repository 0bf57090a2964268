"""The application as a whole, on a database."""

from app.main import create_app
from plinth.database.engine import WARM_CONNECTIONS
from tests.support.api import client_of
from tests.support.metrics import metric
from tests.support.service import settings_with


class TestStart:
    async def test_its_first_callers_find_connections(self, database_url: str) -> None:
        connections = {"db_client_connection_pool_name": "main"}
        before = metric("db_client_connection_count", **connections)
        async with client_of(create_app(settings_with(DATABASE_URL=database_url))):
            assert metric("db_client_connection_count", **connections) - before >= WARM_CONNECTIONS
