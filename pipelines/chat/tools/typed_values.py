"""Turns arguments that a model wrote as plain text into JSON, by the types in the tool's schema. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn

from pipelines.chat_interface import Tool

MAX_REFERENCES = 16  # that are followed to find a type
STRING = frozenset({"string"})
_CONSTANTS = {"true": "true", "false": "false", "null": "null", "none": "null"}


def types_of(tool: Tool, key: str) -> frozenset[str]:
    """Return the types that an argument may have; empty if the schema does not say."""
    properties = tool.parameters.get("properties")
    schema = properties.get(key) if isinstance(properties, Mapping) else None
    return frozenset(_types(schema, tool.parameters, MAX_REFERENCES))


def typed_json(text: str, types: frozenset[str]) -> str:
    """Return the text as JSON of one of the types; as a string where it is none of them."""
    text = text.strip()
    constant = _CONSTANTS.get(text.lower())
    if constant is not None and (
        ("null" if constant == "null" else "boolean") in types or (not types and text == constant)
    ):
        return constant
    found = _parsed(text)
    if types != STRING and found is not None and not isinstance(found, str) and (not types or _type(found) & types):
        return text
    if isinstance(found, str) and types - STRING and text.startswith('"'):
        return text  # a string in quotes, where other types were possible
    return json.dumps(text, ensure_ascii=False)


def _types(schema: object, root: Mapping[str, object], n_left: int) -> set[str]:
    if not isinstance(schema, Mapping) or n_left <= 0:
        return set()
    found: set[str] = set()
    given = schema.get("type")
    for each in given if isinstance(given, list) else [given]:
        if isinstance(each, str):
            found.add(each)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found |= _types(_at(root, reference[2:].split("/")), root, n_left - 1)
    for name in ("anyOf", "oneOf", "allOf"):
        options = schema.get(name)
        for option in options if isinstance(options, list) else []:
            found |= _types(option, root, n_left - 1)
    if not found:
        options = schema.get("enum", [schema["const"]] if "const" in schema else [])
        for option in options if isinstance(options, list) else []:
            found |= _type(option)
    return found


def _at(root: object, path: list[str]) -> object:
    for name in path:
        root = root.get(name) if isinstance(root, Mapping) else None
    return root


def _type(value: object) -> set[str]:
    match value:
        case None:
            return {"null"}
        case bool():
            return {"boolean"}
        case int():
            return {"integer", "number"}
        case float():
            return {"number", "integer"} if value.is_integer() else {"number"}
        case str():
            return {"string"}
        case list():
            return {"array"}
        case _:
            return {"object"}


def _parsed(text: str) -> object:
    """Return what the JSON says; None also for what is no JSON."""
    try:
        parsed: object = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return parsed


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are no JSON
