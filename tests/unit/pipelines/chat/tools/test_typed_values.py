"""Arguments that models write as plain text, as JSON of the types in a tool's schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.chat.tools.typed_values import typed_json, types_of
from pipelines.chat_interface import Tool


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("42", {"type": "string"}, "42"),
        ("true", {"type": "string"}, "true"),
        ('{"a": 1}', {"type": "string"}, '{"a": 1}'),
        ("42", {"type": "integer"}, 42),
        ("4.5", {"type": "number"}, 4.5),
        ("3.0", {"type": "integer"}, 3.0),
        ("many", {"type": "integer"}, "many"),
        ("True", {"type": "boolean"}, True),
        ("None", {"type": ["string", "null"]}, None),
        ("5", {"type": ["string", "null"]}, "5"),
        ('{"a": [1]}', {"type": "object"}, {"a": [1]}),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("{a: 1}", {"type": "object"}, "{a: 1}"),
        ("7", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, 7),
        ("7", {"$ref": "#/$defs/Name"}, "7"),
        ("2", {"enum": [1, 2]}, 2),
        ("2", {"enum": ["1", "2"]}, "2"),
        ("2", {"const": "2"}, "2"),
        ("2", {}, 2),
        ("null", {}, None),
        ("None", {}, "None"),
        ("Rom", {}, "Rom"),
        ("NaN", {"type": "number"}, "NaN"),
        ("9" * 5000, {"type": "integer"}, "9" * 5000),
    ],
)
def test_a_text_becomes_a_value_of_the_schemas_type(text: str, schema: dict[str, Any], value: Any) -> None:
    tool = Tool("f", "", {"properties": {"a": schema}, "$defs": {"Name": {"type": "string"}}})

    found = json.loads(typed_json(f" {text}\n", types_of(tool, "a")))

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "parameters",
    [{}, {"properties": []}, {"properties": {"a": True}}, {"properties": {"a": {"$ref": "#/properties/a"}}}],
)
def test_a_schema_that_says_nothing_leaves_all_types(parameters: dict[str, Any]) -> None:
    assert types_of(Tool("f", "", parameters), "a") == frozenset()
