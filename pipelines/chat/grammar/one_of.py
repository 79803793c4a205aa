"""Writes `oneOf` as `anyOf` where both mean the same, because llguidance proves that for few schemas. Pure functions.

Libraries write a choice of models so, each with a property of one constant value that tells which it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from typing import Any

MAX_COMPARED = 64  # schemas in one `oneOf`: each is compared with each
MAX_REFERENCES = 16  # that are followed one after the other

# Keywords by what they hold; all others hold no schemas, or their schemas are not read anyway.
_ONE = ("items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames")
_LIST = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def exclusive_as_any(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with each `oneOf` whose schemas exclude each other written as `anyOf`."""
    rewritten: Mapping[str, Any] = _rewritten(schema, schema)
    return rewritten


def _rewritten(schema: Any, root: Mapping[str, Any]) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    for name, value in schema.items():
        if name in _LIST and isinstance(value, list):
            found[name] = [_rewritten(each, root) for each in value]
        elif name in _NAMED and isinstance(value, Mapping):
            found[name] = {key: _rewritten(each, root) for key, each in value.items()}
        elif name in _ONE:
            found[name] = _rewritten(value, root)
    branches = schema.get("oneOf")
    if isinstance(branches, list) and "anyOf" not in schema and _exclude_each_other(branches, root):
        found["anyOf"] = found.pop("oneOf")
    return found


def _exclude_each_other(branches: list[Any], root: Mapping[str, Any]) -> bool:
    if len(branches) > MAX_COMPARED:
        return False
    resolved = [_resolved(branch, root) for branch in branches]
    return all(_excludes(one, other, root) for one, other in combinations(resolved, 2))


def _excludes(one: Mapping[str, Any], other: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Whether it is sure that no value matches both."""
    if not _types(one) & _types(other) or _differ(one, other):
        return True
    if _types(one) != {"object"} or _types(other) != {"object"}:
        return False
    return any(
        _differ(_resolved(_property(one, name), root), _resolved(_property(other, name), root))
        for name in _required(one) & _required(other)
    )


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether both list their values, and have none in common."""
    values, others = _values(one), _values(other)
    return values is not None and others is not None and not values & others


def _values(schema: Mapping[str, Any]) -> frozenset[str] | None:
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    return frozenset(json.dumps(value, sort_keys=True) for value in listed) if isinstance(listed, list) else None


def _types(schema: Mapping[str, Any]) -> set[str]:
    given = schema.get("type")
    types = {given} if isinstance(given, str) else {each for each in given if isinstance(each, str)} if given else set()
    if not types:
        return {"object", "array", "string", "number", "boolean", "null"}
    return {"number" if each == "integer" else each for each in types}


def _required(schema: Mapping[str, Any]) -> set[str]:
    required = schema.get("required")
    return {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()


def _property(schema: Mapping[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema that only refers to another one stands for; without keywords where that cannot be told."""
    for _ in range(MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        if not reference.startswith("#/"):
            return {}
        schema = root
        for part in reference[2:].split("/"):
            schema = schema.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(schema, Mapping) else None
    return {}
