"""Two callers of the service, for every test of this folder."""

import pytest

from plinth.testing import Client


@pytest.fixture(scope="module")
def alice(client: Client) -> Client:
    return client.signed_in("alice")


@pytest.fixture(scope="module")
def bob(client: Client) -> Client:
    return client.signed_in("bob")
