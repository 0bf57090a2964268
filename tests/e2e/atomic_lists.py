"""Where what is applied differs for ever from what is there: the lists that server-side apply replaces whole.

It merges objects and lists that have keys with what the server fills in. A list that its schema calls atomic it takes
as it was written, so that a tool for GitOps reports every field that the server fills in there.

https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy
"""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.e2e.cluster import Cluster
from tests.e2e.release import Release


def filled_in(release: Release) -> list[str]:
    """Paths of the atomic lists, in objects of the release, into which the server has written."""
    schemas = _Schemas(release.cluster)
    manifest = filter(None, yaml.safe_load_all(release.helm("get", "manifest", "plinth")))
    return [
        f"{applied['kind']}/{applied['metadata']['name']}{path}"
        for applied in manifest
        for path in _filled_in(schemas, schemas.of(applied), applied, _live(release, applied))
    ]


def _live(release: Release, applied: dict[str, Any]) -> dict[str, Any]:
    group, _, version = applied["apiVersion"].rpartition("/")
    kind = ".".join(part for part in (applied["kind"], version if group else "", group) if part)
    name = applied["metadata"]["name"]
    found = release.cluster.kubectl("get", kind, name, "--namespace", release.namespace, "--output", "json")
    live: dict[str, Any] = json.loads(found)
    return live


def _filled_in(schemas: "_Schemas", schema: dict[str, Any], applied: Any, live: Any, path: str = "") -> Iterator[str]:
    schema = schemas.resolved(schema)
    if isinstance(applied, dict):
        for name, value in applied.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties") or {}
            if value is not None and isinstance(live, dict):
                yield from _filled_in(schemas, inner, value, live.get(name), f"{path}.{name}")
    elif isinstance(applied, list) and schema.get("x-kubernetes-list-type") == "map":
        items = schemas.resolved(schema["items"])
        defaults = {key: items["properties"][key].get("default") for key in schema["x-kubernetes-list-map-keys"]}

        def key(item: dict[str, Any]) -> tuple[Any, ...]:
            return tuple(item.get(name, default) for name, default in defaults.items())

        by_key = {key(item): item for item in live}
        for item in applied:
            yield from _filled_in(schemas, items, item, by_key[key(item)], f"{path}{list(key(item))}")
    elif isinstance(applied, list) and applied != [_without_status(item) for item in live]:
        yield path


def _without_status(item: Any) -> Any:
    """A claim template gets one, which no tool compares."""
    return {name: value for name, value in item.items() if name != "status"} if isinstance(item, dict) else item


class _Schemas:
    """What the server says of its objects."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._documents: dict[str, dict[str, Any]] = {}

    def of(self, applied: dict[str, Any]) -> dict[str, Any]:
        """The schema of an object, of whose document `resolved` then follows the references."""
        group, _, version = applied["apiVersion"].rpartition("/")
        path = f"apis/{group}/{version}" if group else f"api/{version}"
        if path not in self._documents:
            document = json.loads(self._cluster.kubectl("get", "--raw", f"/openapi/v3/{path}"))
            self._documents[path] = document["components"]["schemas"]
        self._schemas = self._documents[path]
        wanted = {"group": group, "version": version, "kind": applied["kind"]}
        found: dict[str, Any]
        (found,) = (
            schema for schema in self._schemas.values() if schema.get("x-kubernetes-group-version-kind") == [wanted]
        )
        return found

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A schema with what it refers to. References stand alone in `allOf`, beside a default and a description."""
        while "$ref" in schema or "allOf" in schema:
            reference = schema.get("$ref") or schema["allOf"][0]["$ref"]
            rest = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
            schema = self._schemas[reference.rpartition("/")[2]] | rest
        return schema
