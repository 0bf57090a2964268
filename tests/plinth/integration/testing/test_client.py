"""The client of an application under test."""

import pytest
from fastapi import Request

from notes.config import Settings
from notes.main import create_app
from plinth.api.dependencies import state_of
from plinth.database.reads import ReadOnlyError
from plinth.testing import open_client


async def test_code_that_writes_where_it_is_to_read_raises_in_the_test(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/api/v1/clean")
    async def clean(request: Request) -> None:
        await state_of(request)["reads"].run(lambda connection: connection.execute("DELETE FROM note"))

    async with open_client(app) as client:
        with pytest.raises(ReadOnlyError):
            await client.get("/clean")
