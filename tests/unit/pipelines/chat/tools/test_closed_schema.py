"""Which objects of a tool's schema are closed."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.chat.tools.closed_schema import closed

NAME = {"name": {"type": "string"}}
OPEN: dict[str, Any] = {"type": "object", "properties": NAME}
REF = {"$ref": "#/$defs/A"}
CLOSED = {**OPEN, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (OPEN, CLOSED),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "additionalProperties": False}),
        ({"properties": {"a": OPEN}}, {"properties": {"a": CLOSED}, "additionalProperties": False}),
        ({"items": {"anyOf": [OPEN, {"type": "null"}]}}, {"items": {"anyOf": [CLOSED, {"type": "null"}]}}),
        ({"$defs": {"A": OPEN}, "items": REF}, {"$defs": {"A": CLOSED}, "items": REF}),
        ({"items": {"additionalProperties": OPEN}}, {"items": {"additionalProperties": CLOSED}}),
        # A property may have the name of a keyword, and a default may look like a schema.
        (
            {"properties": {"properties": OPEN, "enum": OPEN}},
            {"properties": {"properties": CLOSED, "enum": CLOSED}, "additionalProperties": False},
        ),
        ({"default": OPEN, "enum": [OPEN]}, {"default": OPEN, "enum": [OPEN]}),
    ],
)  # fmt: skip
def test_an_object_has_no_other_properties_than_its_schema_names(schema: Any, expected: Any) -> None:
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**OPEN, "additionalProperties": True},
        {**OPEN, "additionalProperties": {"type": "string"}},
        {**OPEN, "patternProperties": {"^x": {}}},
        {**OPEN, "minProperties": 2},
        {"allOf": [OPEN, {"type": "object", "properties": {"age": {"type": "integer"}}}]},
        {**OPEN, "anyOf": [{"properties": {"age": {"type": "integer"}}}]},
        {"$defs": {"Named": OPEN}, "items": {"$ref": "#/$defs/Named", "properties": {"age": {"type": "integer"}}}},
    ],
)
def test_an_object_that_may_have_further_properties_keeps_them(schema: Any) -> None:
    assert closed(schema) == schema
