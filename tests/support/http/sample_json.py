"""Makes the simplest value that a JSON schema allows, as a model that follows the schema might."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIMPLEST: Mapping[str, Any] = {"string": "text", "integer": 1, "number": 0.5, "boolean": True, "null": None}


def sample(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Knows the keywords that clients' schemas are made of; formats, patterns and upper limits are not among them."""
    root = schema if root is None else root
    if "$ref" in schema:
        place: Any = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            place = place[name]
        return sample(place, root)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return sample(schema[several][0], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: sample(inner, root) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema.get("items", {}), root) for _ in range(max(1, schema.get("minItems", 0)))]
    simplest = SIMPLEST[kind]
    return max(schema.get("minimum", simplest), simplest) if kind in ("integer", "number") else simplest
