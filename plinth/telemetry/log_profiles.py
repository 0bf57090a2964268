"""The names that log stores give to the members of a line: `LOG_PROFILE`.

Cloud Logging: https://cloud.google.com/logging/docs/structured-logging#structured_logging_special_fields
Elastic: https://www.elastic.co/docs/reference/ecs, https://www.elastic.co/docs/reference/ecs/logging/intro
Datadog: https://docs.datadoghq.com/logs/log_configuration/attributes_naming_convention/#reserved-attributes
"""

import json
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

__all__ = ["ACCESS_MESSAGE", "PROFILES", "RESERVED", "WEBSOCKET_MESSAGE", "Profile", "free", "move", "translate"]

ACCESS_MESSAGE = "request"
"""The message of access lines."""
WEBSOCKET_MESSAGE = "websocket"
"""The message of the line that a WebSocket writes when it has ended."""

RESERVED = frozenset({"timestamp", "level", "message", "trace_id", "span_id", "request_id"})
"""Members that the platform alone writes, under their names in the profile `default`."""


class Profile(NamedTuple):
    """What a log store expects of a line."""

    renamed: Mapping[str, str]
    """The names of the platform's members."""
    access: Mapping[str, str]
    """The names of those of access lines and WebSockets' lines, beside the others."""
    levels: Mapping[str, str]
    reserved: frozenset[str]
    """Names that the store gives a meaning: a value of the code's own moves to another name."""
    objects: frozenset[str] = frozenset()
    """Names under which the store expects objects. A store that has some takes dots in names for objects too."""
    words: frozenset[str] = frozenset()
    """Names under which it refuses objects, and the line with them."""
    constant: Mapping[str, str] = {}
    decimal_ids: bool = False
    """Whether lines have `dd.trace_id` and `dd.span_id` too: the lower 64 bits, as decimals."""


_GCP = Profile(
    renamed={
        "timestamp": "time",
        "level": "severity",
        "trace_id": "logging.googleapis.com/trace",
        "span_id": "logging.googleapis.com/spanId",
    },
    access={},
    levels={"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR", "critical": "CRITICAL"},
    reserved=frozenset(
        {
            *("severity", "message", "time", "timestamp", "timestampSeconds", "timestampNanos", "httpRequest"),
            *(
                f"logging.googleapis.com/{name}"
                for name in (
                    *("insertId", "labels", "operation", "sourceLocation", "spanId", "trace", "trace_sampled"),
                    *("severity", "http_request", "logName", "monitored_resource", "traceSampled"),
                )
            ),
        }
    ),
)

# The field sets of ECS 8.17 that are no single fields.
_ECS_SETS = frozenset(
    {
        *("agent", "as", "client", "cloud", "code_signature", "container", "data_stream", "destination"),
        *("device", "dll", "dns", "ecs", "elf", "email", "error", "event", "faas", "file", "geo", "group"),
        *("hash", "host", "http", "interface", "labels", "log", "macho", "network", "observer"),
        *("orchestrator", "organization", "os", "package", "pe", "process", "registry", "related", "risk"),
        *("rule", "server", "service", "source", "span", "threat", "tls", "trace", "transaction", "url"),
        *("user", "user_agent", "vlan", "volume", "vulnerability", "x509"),
    }
)
_ECS = Profile(
    renamed={
        "timestamp": "@timestamp",
        "level": "log.level",
        "trace_id": "trace.id",
        "span_id": "span.id",
        "request_id": "http.request.id",
        "logger": "log.logger",
        "exception": "error.stack_trace",
        "error": "error.message",
    },
    access={
        "method": "http.request.method",
        "path": "url.path",
        "status": "http.response.status_code",
        "client": "client.address",
        "error": "error.type",
        "principal": "user.hash",
    },
    levels={},
    # A value in `trace` would replace what `trace.id` says.
    reserved=frozenset(
        {
            *("@timestamp", "message", "ecs.version", "log.level", "log.logger", "trace.id", "span.id"),
            *("http.request.id", "error.stack_trace", "trace", "span", "log", "ecs"),
        }
    ),
    objects=_ECS_SETS,
    words=frozenset({"tags"}),
    constant={"ecs.version": "8.17.0"},
)

_DATADOG = Profile(
    renamed={
        "level": "status",
        "request_id": "http.request_id",
        "logger": "logger.name",
        "exception": "error.stack",
        "error": "error.message",
    },
    access={
        "method": "http.method",
        "path": "http.url_details.path",
        "status": "http.status_code",
        "client": "network.client.ip",
        "error": "error.kind",
        "principal": "usr.id",
    },
    levels={},
    reserved=frozenset(
        {
            *("host", "hostname", "syslog.hostname", "service", "syslog.appname", "dd.service", "source", "ddsource"),
            *("status", "severity", "level", "syslog.severity", "message", "msg", "log", "ddtags", "dd"),
            *("timestamp", "@timestamp", "_timestamp", "Timestamp", "eventTime", "date", "published_date"),
            *("syslog.timestamp", "trace_id", "span_id", "dd.trace_id", "dd.span_id", "http.request_id"),
            *("logger.name", "error.stack"),
        }
    ),
    objects=frozenset({"error", "http", "logger", "network", "usr"}),
    decimal_ids=True,
)

_NESTED = (dict, list)

PROFILES: Mapping[str, Profile | None] = {"default": None, "gcp": _GCP, "ecs": _ECS, "datadog": _DATADOG}


def move(event: MutableMapping[str, Any], name: str) -> None:
    """Give a member another name, `level_` for `level`."""
    value = event.pop(name)
    event[free(name, event)] = value


def free(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name with as many underscores, one at least, as make it one that is not taken."""
    name += "_"
    while name in taken:
        name += "_"
    return name


def translate(profile: Profile, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a line, the platform's (`ours`) and the code's (`theirs`), under the profile's names."""
    line = {profile.renamed.get(name, name): value for name, value in ours.items()}
    level = profile.renamed["level"]
    line[level] = profile.levels.get(line[level], line[level])
    if isinstance(line["message"], dict | list):  # of a store's text an object would be an error of the whole line
        line["message"] = json.dumps(line["message"])
    line |= profile.constant
    if profile.decimal_ids and "trace_id" in ours:
        line["dd.trace_id"] = str(int(ours["trace_id"][16:], 16))
        line["dd.span_id"] = str(int(ours["span_id"], 16))
    names: Mapping[str, str] = profile.renamed
    if ours["message"] in (ACCESS_MESSAGE, WEBSOCKET_MESSAGE) and "route" in theirs:
        names = {**names, **profile.access}
    for name, value in theirs.items():
        nested = isinstance(value, _NESTED) and _has_objects(value)
        if name in names and not nested:
            own = names[name]
        elif name in profile.reserved or (nested and name in profile.words):
            own = free(name, line)
        elif name in profile.objects or "." in name or isinstance(value, dict):
            own = free(name, line) if _is_odd(profile, name, value) else name
        else:
            own = name
        # A line about another job has that one's id.
        line[own if own not in line or own in ("job_id", "attempt") else free(own, line)] = value
    return line


def _has_objects(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_objects, value)))


def _is_odd(profile: Profile, name: str, value: Any) -> bool:
    """Whether a store that takes dots for objects would take a member for another, or refuse the line.

    `http={"request": {"id": …}}` is `http.request.id` there, and what is an object cannot be a text.
    """
    if name in profile.objects and not isinstance(value, dict):
        return True
    if not profile.objects:
        return False
    reserved = [f"{own}." for own in profile.reserved - profile.objects]
    head = f"{name.partition('.')[0]}."
    if not any(own.startswith(head) for own in reserved):
        return False
    return any(own.startswith(path) or path.startswith(own) for path in _paths(name, value) for own in reserved)


def _paths(name: str, value: Any) -> Iterator[str]:
    """The names of a member's values with all dots, and one behind each."""
    if isinstance(value, dict):
        for part, inner in value.items():
            yield from _paths(f"{name}.{part}", inner)
    else:
        yield f"{name}."
