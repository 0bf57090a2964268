"""The running service and two of its callers, for every test of this folder."""

from tests.support.service import alice, api, bob, database, service, settings

__all__ = ["alice", "api", "bob", "database", "service", "settings"]
