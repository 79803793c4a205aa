"""Closes the objects of a tool's schema: they get no other properties than those it names. Any thread; no torch.

JSON Schema allows any others, of which a small model makes use without end, and which hardly a tool expects. A closed
schema allows nothing that the open one does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

DATA = frozenset({"enum", "const", "default", "examples"})  # keywords whose values are no schemas
NAMED = frozenset({"properties", "$defs", "definitions"})  # keywords whose values are schemas by names of one's own
# Keywords by which a schema says something of properties that it does not name.
OTHERS = frozenset({"additionalProperties", "patternProperties", "propertyNames", "minProperties"})
# Keywords by which an object has properties of several schemas, beside its own `properties`.
PARTS = frozenset({"$ref", "anyOf", "oneOf", "if", "not", "dependentSchemas", "dependencies", "unevaluatedProperties"})


def closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema as it is if an object in it is put together of several schemas: none of them is the whole."""
    return schema if _put_together(schema) else cast(Mapping[str, Any], _closed(schema))


def _put_together(schema: object) -> bool:
    if isinstance(schema, list):
        return any(map(_put_together, schema))
    if not isinstance(schema, Mapping):
        return False
    here = "allOf" in schema or ("properties" in schema and bool(PARTS & schema.keys()))
    return here or any(map(_put_together, schema.values()))


def _closed(schema: object) -> object:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    parts: dict[str, object] = {}
    for keyword, value in schema.items():
        if keyword in NAMED and isinstance(value, Mapping):
            parts[keyword] = {name: _closed(part) for name, part in value.items()}
        else:
            parts[keyword] = value if keyword in DATA else _closed(value)
    names_all = isinstance(schema.get("properties"), Mapping) and not OTHERS & schema.keys()
    return {**parts, "additionalProperties": False} if names_all else parts
