"""The permissions of a caller.

A token has a permission if it names it as a scope or a role, or if one of its roles or scopes is granted it by the
settings. Permissions are words of the service's own, such as `orders:write`; the platform's begin with `plinth:`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from plinth.identity.principal import Principal
from plinth.settings import PlatformSettings

__all__ = ["OPERATE_JOBS", "READ_JOBS", "Permissions"]

READ_JOBS = "plinth:jobs:read"
"""See the jobs of all owners, queues, workers and schedules."""
OPERATE_JOBS = "plinth:jobs:operate"
"""Change them as well: pause, resume, cancel, retry, run. Includes READ_JOBS."""


class Permissions:
    """What the settings grant: PERMISSIONS to roles and scopes, and both of the jobs' permissions to operators."""

    def __init__(self, settings: PlatformSettings) -> None:
        self._roles = _granting(settings.PERMISSIONS, settings.OPERATOR_ROLE)
        self._scopes = _granting(settings.PERMISSIONS, settings.OPERATOR_SCOPE)

    def has(self, principal: Principal, permission: str) -> bool:
        """Whether the caller has the permission."""
        itself = {permission}
        return not (
            principal.roles.isdisjoint(self._roles.get(permission, itself))
            and principal.scopes.isdisjoint(self._scopes.get(permission, itself))
        )

    def granting(self, principal: Principal, *permissions: str) -> Principal:
        """The caller with those roles and scopes alone that grant one of the permissions."""
        roles = set[str]().union(*(self._roles.get(permission, {permission}) for permission in permissions))
        scopes = set[str]().union(*(self._scopes.get(permission, {permission}) for permission in permissions))
        return replace(principal, roles=principal.roles & roles, scopes=principal.scopes & scopes)


def _granting(mapping: Iterable[tuple[str, Sequence[str]]], operator: str | None) -> dict[str, set[str]]:
    """For each permission the names that grant it, its own among them."""
    granting = {READ_JOBS: {READ_JOBS}, OPERATE_JOBS: {OPERATE_JOBS}}
    for name, permissions in mapping:
        for permission in permissions:
            granting.setdefault(permission, {permission}).add(name)
    if operator is not None:
        granting[OPERATE_JOBS].add(operator)
    granting[READ_JOBS] |= granting[OPERATE_JOBS]
    return granting
