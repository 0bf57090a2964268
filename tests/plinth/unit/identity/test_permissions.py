"""The permissions of a caller: from scopes, roles and the mapping of the settings."""

from typing import Any

import pytest

from plinth.identity.permissions import OPERATE_JOBS, READ_JOBS, Permissions
from plinth.identity.principal import Principal
from plinth.settings import PlatformSettings


def has(permission: str, *, scopes: tuple[str, ...] = (), roles: tuple[str, ...] = (), **settings: Any) -> bool:
    caller = Principal("alice", "here", frozenset(scopes), frozenset(roles), 0)
    return Permissions(PlatformSettings.isolated(**settings)).has(caller, permission)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({}, False),
        ({"scopes": ("orders:write",)}, True),
        ({"roles": ("orders:write",)}, True),  # `permissions` of Auth0 are among the roles
        ({"scopes": ("orders",), "roles": ("orders:read", "orders:writer", "")}, False),
        ({"roles": ("admin",)}, False),
    ],
)
def test_permission_is_held_as_a_scope_or_a_role(held: dict[str, tuple[str, ...]], expected: bool) -> None:
    assert has("orders:write", **held) is expected


@pytest.mark.parametrize(
    ("name", "permission", "expected"),
    [
        ("admin", "orders:write", True),
        ("admin", "orders:read", True),
        ("viewer", "orders:read", True),
        ("viewer", "orders:write", False),
        ("auditor", "orders:read", False),
        ("orders:read", "orders:write", False),
    ],
)
@pytest.mark.parametrize("claim", ["scopes", "roles"])
def test_mapping_grants_permissions_to_roles_and_scopes(claim: str, name: str, permission: str, expected: bool) -> None:
    mapping = "admin=orders:write orders:read,viewer=orders:read"
    assert has(permission, PERMISSIONS=mapping, **{claim: (name,)}) is expected


def test_mapping_is_not_followed_twice() -> None:
    assert not has("orders:write", roles=("viewer",), PERMISSIONS="viewer=admin,admin=orders:write")


class TestOperators:
    @pytest.mark.parametrize("permission", [READ_JOBS, OPERATE_JOBS])
    @pytest.mark.parametrize(
        ("settings", "held", "expected"),
        [
            ({"OPERATOR_ROLE": "operator"}, {"roles": ("operator",)}, True),
            ({"OPERATOR_ROLE": "operator"}, {"scopes": ("operator",)}, False),
            ({"OPERATOR_SCOPE": "operate"}, {"scopes": ("operate",)}, True),
            ({"OPERATOR_SCOPE": "operate"}, {"roles": ("operate",)}, False),
            ({}, {"roles": ("None", "", "operator"), "scopes": ("None", "")}, False),
            ({"PERMISSIONS": f"ops={OPERATE_JOBS}"}, {"roles": ("ops",)}, True),
            ({}, {"scopes": (OPERATE_JOBS,)}, True),
        ],
    )
    def test_operators_read_and_operate_jobs(
        self, settings: dict[str, Any], held: dict[str, Any], expected: bool, permission: str
    ) -> None:
        assert has(permission, **held, **settings) is expected

    @pytest.mark.parametrize(
        ("settings", "held"),
        [
            ({"PERMISSIONS": f"support={READ_JOBS}"}, {"roles": ("support",)}),
            ({"PERMISSIONS": f"support={READ_JOBS}", "OPERATOR_ROLE": "operator"}, {"scopes": ("support",)}),
            ({}, {"scopes": (READ_JOBS,)}),
        ],
    )
    def test_read_only_operators_operate_nothing(self, settings: dict[str, Any], held: dict[str, Any]) -> None:
        assert has(READ_JOBS, **held, **settings)
        assert not has(OPERATE_JOBS, **held, **settings)

    def test_operator_role_may_have_other_permissions_too(self) -> None:
        settings: dict[str, Any] = {"OPERATOR_ROLE": "operator", "PERMISSIONS": "operator=orders:read"}
        for permission in (READ_JOBS, OPERATE_JOBS, "orders:read"):
            assert has(permission, roles=("operator",), **settings)
        assert not has(READ_JOBS, scopes=("operator",), **settings)


def test_caller_is_reduced_to_what_grants_the_permissions() -> None:
    caller = Principal("alice", "here", frozenset({"a", "operate", READ_JOBS}), frozenset({"support", "b", "admin"}), 9)
    settings = PlatformSettings.isolated(
        PERMISSIONS=f"support={READ_JOBS},admin=orders:read", OPERATOR_SCOPE="operate", OPERATOR_ROLE="boss"
    )
    permissions = Permissions(settings)

    reduced = permissions.granting(caller, READ_JOBS, OPERATE_JOBS)

    assert (reduced.scopes, reduced.roles) == (frozenset({"operate", READ_JOBS}), frozenset({"support"}))
    assert (reduced.subject, reduced.expires_at) == ("alice", 9)
    assert all(permissions.has(reduced, name) == permissions.has(caller, name) for name in (READ_JOBS, OPERATE_JOBS))
