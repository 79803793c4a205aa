"""Every way to ask for the form of a reply becomes one grammar, or a 400 that names the field at fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.chat_interface import Grammar
from server.api.openai.chat_schema import read_chat
from server.errors import BadRequest

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}, "required": ["a"]}
TEXT = json.dumps(SCHEMA)  # properties keep their order: models fill them in that order
GBNF = 'root ::= "yes" | "no"'


def read(**fields: Any) -> Grammar | None:
    return read_chat({"messages": HI, **fields}).chat_input.prompt_options.grammar


def named(**schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "p", **schema}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, Grammar("json_object")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Grammar("json_schema", TEXT)),
        ({"response_format": named(schema=SCHEMA, strict=True)}, Grammar("json_schema", TEXT)),
        ({"response_format": named(schema=SCHEMA, description="x")}, Grammar("json_schema", TEXT, strict=False)),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA, "strict": True}}, Grammar("json_schema", TEXT)),
        ({"response_format": {"type": "grammar", "grammar": GBNF}}, Grammar("lark", GBNF)),
        ({"response_format": {"type": "regex", "pattern": "a+"}}, Grammar("regex", "a+")),
        ({"guided_json": SCHEMA}, Grammar("json_schema", TEXT, "guided_json")),
        ({"guided_json": TEXT}, Grammar("json_schema", TEXT, "guided_json")),
        ({"guided_regex": "a+"}, Grammar("regex", "a+", "guided_regex")),
        ({"guided_choice": ["a", "b"]}, Grammar("choice", '["a", "b"]', "guided_choice")),
        ({"guided_grammar": "start: /a+/"}, Grammar("lark", "start: /a+/", "guided_grammar")),
        ({"structured_outputs": {"json": SCHEMA}}, Grammar("json_schema", TEXT, "structured_outputs")),
        ({"structured_outputs": {"regex": "a+", "json": None}}, Grammar("regex", "a+", "structured_outputs")),
        ({"structured_outputs": {"choice": ["a"]}}, Grammar("choice", '["a"]', "structured_outputs")),
        ({"structured_outputs": {"grammar": GBNF}}, Grammar("lark", GBNF, "structured_outputs")),
        ({"structured_outputs": {"json_object": True}}, Grammar("json_object", field="structured_outputs")),
        ({"grammar": GBNF}, Grammar("lark", GBNF, "grammar")),
        ({"json_schema": SCHEMA}, Grammar("json_schema", TEXT, "json_schema")),
        ({"regex": "a+"}, Grammar("regex", "a+", "regex")),
        ({"ebnf": GBNF}, Grammar("lark", GBNF, "ebnf")),
        ({"json_schema": TEXT, "guided_json": SCHEMA}, Grammar("json_schema", TEXT, "guided_json")),
        ({"response_format": {"type": "text"}, "regex": "a+"}, Grammar("regex", "a+", "regex")),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {}, "guided_choice": [], "grammar": "", "guided_json": False, "regex": None}, None),
    ],
)
def test_each_way_to_ask_for_a_form_is_read(fields: Any, expected: Grammar | None) -> None:
    assert read(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": "json"}, "response_format", 'must be an object like {"type": "json_schema"'),
        ({"response_format": {"type": "xml"}}, "response_format", "text, json_object or json_schema. xml is not"),
        ({"response_format": {"type": "structural_tag"}}, "response_format", "structural_tag is not supported"),
        ({"response_format": {"type": 5}}, "response_format", "response_format.type must be"),
        ({"response_format": {"type": "<b>"}}, "response_format", "text, json_object or json_schema."),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema.schema is required"),
        ({"response_format": {"type": "json_schema", "json_schema": []}}, "response_format", "an object with a name"),
        ({"response_format": named(schema=[1])}, "response_format", "must be a JSON schema"),
        ({"response_format": named(schema=SCHEMA, strict="yes")}, "response_format", "strict must be true or false"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": 5, "schema": SCHEMA}}},
         "response_format", "name must be a text"),
        ({"guided_json": "{"}, "guided_json", "must be a JSON schema"),
        ({"guided_json": 5}, "guided_json", "must be a JSON schema"),
        ({"guided_json": {"const": "\ud800"}}, "guided_json", "halves of surrogate pairs"),
        ({"guided_regex": ["a"]}, "guided_regex", "must be a regular expression"),
        ({"guided_choice": "a"}, "guided_choice", "must be a list of texts"),
        ({"guided_choice": ["a", ""]}, "guided_choice", "must be a list of texts"),
        ({"guided_choice": [1]}, "guided_choice", "must be a list of texts"),
        ({"grammar": {"type": "lark"}}, "grammar", "GBNF or Lark"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs", "an object with one of"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs", "an object with one of"),
        ({"structured_outputs": "x"}, "structured_outputs", "an object with one of"),
        ({"regex": "a", "guided_choice": ["b"]}, "regex", "guided_choice and regex differ"),
        ({"response_format": {"type": "json_object"}, "guided_json": SCHEMA}, "guided_json", "differ"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_the_name_of_its_field(fields: Any, param: str, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(**fields)

    assert refused.value.param == param
    assert message in refused.value.message


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        schema = {"type": "array", "items": schema}

    with pytest.raises(BadRequest, match="nested at most 96 levels"):
        read(response_format=named(schema=schema))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
     "json_schema", "regex", "grammar", "ebnf"]
)  # fmt: skip
PARTS = st.sampled_from(["type", "json_schema", "schema", "strict", "name", "grammar", "regex", "json", "choice"])
TYPES = st.sampled_from(["text", "json_object", "json_schema", "grammar", "regex"])
FORMS = st.dictionaries(PARTS, JSON | TYPES | st.dictionaries(PARTS, JSON, max_size=4), max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(FIELDS, JSON | FORMS, max_size=3))
def test_any_value_becomes_a_grammar_or_a_bad_request(fields: dict[str, Any]) -> None:
    try:
        grammar = read(**fields)
    except BadRequest as refused:
        assert refused.param in fields  # noqa: PT017
        assert len(refused.message) < 400  # noqa: PT017
        return
    assert grammar is None or grammar.field in fields
