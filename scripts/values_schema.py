"""Writes the service's settings into values.schema.json, as what `config` accepts in the chart's values: `make schema`.

The settings class says which settings there are and what they accept; `.env.example` explains them. The other parts of
the schema are written by hand.
"""

import json
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from plinth.cli.service import declared_settings
from plinth.settings import PlatformSettings

Schema: TypeAlias = dict[str, Any]

ROOT = Path(__file__).parents[1]
CHART_SCHEMA = ROOT / "charts" / "plinth" / "values.schema.json"
ENV_EXAMPLE = ROOT / ".env.example"

# The chart sets these from values of its own; the image sets the revision.
DECIDED_BY_CHART = {
    *("ENVIRONMENT", "SECRET_KEY", "DATABASE_URL", "REDIS_URL", "METRICS_PORT", "BUILD_REVISION"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SERVICE_NAME"),
    *("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_RESOURCE_ATTRIBUTES"),
}

_CONSTRAINTS = {
    *("enum", "pattern", "minLength", "maxLength", "items", "minItems", "maxItems", "additionalProperties"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


def generated(settings: type[PlatformSettings], chart_schema: str, env_example: str) -> str:
    """Return `chart_schema` with the part about `config` made anew.

    Raises:
        KeyError: `env_example` does not explain a setting.
    """
    schema = json.loads(chart_schema)
    required = schema["properties"]["config"]["allOf"][1]["required"]
    schema["definitions"]["config"] = config_schema(settings, required, explanations(env_example))
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def config_schema(settings: type[PlatformSettings], required: Collection[str], explained: Mapping[str, str]) -> Schema:
    """Return the schema of `config`: every setting that is neither a secret nor decided by the chart.

    The chart computes with those that are `required`, so that each has to be there in its own type.
    """
    whole = settings.model_json_schema(mode="validation")
    definitions = whole.get("$defs", {})
    properties = {}
    for name, own in whole["properties"].items():
        alternatives = [_resolved(part, definitions) for part in own.get("anyOf", [own])]
        if name not in DECIDED_BY_CHART and not any("writeOnly" in part for part in alternatives):
            properties[name] = {"description": explained[name], **_accepted(alternatives, strict=name in required)}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def explanations(env_example: str) -> dict[str, str]:
    """Return the comment above each setting in the text of `.env.example`."""
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in env_example.splitlines():
        if setting := re.match(r"(?:# )?([A-Z][A-Z0-9_]*)=", line):
            if comment:
                found[setting[1]] = " ".join(comment)
            comment = []
        elif line.startswith("# "):
            comment.append(line.removeprefix("# "))
        else:
            comment = []
    return found


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    return definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _accepted(alternatives: list[Schema], *, strict: bool) -> Schema:
    """Return what the chart's values may hold for a setting.

    Unless it is `strict`, null leaves the setting out, and text passes for a number, a switch, a list or a map: it
    becomes an environment variable, and the application reads that.
    """
    parts = [part for part in alternatives if part.get("type") != "null"]
    types = [part.get("type") for part in parts]
    accepted = {name: value for name, value in parts[0].items() if name in _CONSTRAINTS} if len(parts) == 1 else {}
    if strict:
        return {"type": types[0], **accepted}
    if "enum" in accepted:
        accepted["enum"] = [*accepted["enum"], None]
    own = [name for name in types if name in ("number", "integer", "boolean", "array", "object")]
    return {"type": [*own, "string", "null"], **accepted}


def main() -> None:
    """Write the schema."""
    text = CHART_SCHEMA.read_text(encoding="utf-8")
    try:
        text = generated(declared_settings(ROOT), text, ENV_EXAMPLE.read_text(encoding="utf-8"))
    except KeyError as error:
        sys.exit(f"{ENV_EXAMPLE.name} has no line for {error}, or no comment above it: write what the setting does.")
    CHART_SCHEMA.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
