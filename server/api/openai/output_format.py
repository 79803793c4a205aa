"""The form that a reply must have, as clients of OpenAI and of other servers ask for it. Pure functions.

OpenAI has `response_format`; vLLM `structured_outputs`, and formerly `guided_json` and its likes; llama.cpp `grammar`
and `json_schema`; SGLang `regex`, `ebnf` and `json_schema`. All become one `Grammar`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, WithJsonSchema

from pipelines.chat_interface import Grammar
from server.api.shared.client_json import READABLE, SHOWN_TYPE, UNREADABLE, nested_deeper, texts_in
from server.api.shared.field_rules import asks_for_nothing
from server.api.shared.field_types import Lenient
from server.errors import BadRequest

MAX_LEVELS = 96  # of lists and objects in a schema
FORMAT = 'an object like {"type": "json_schema", "json_schema": {"name": "NAME", "schema": …}}'
FLAT_FORMAT = 'an object like {"type": "json_schema", "name": "NAME", "schema": …}'
SCHEMA = "a JSON schema, as an object or as text"
REGEX = "a regular expression for the whole reply, without look-around"
CHOICES = "a list of texts, of which the reply is one"
GRAMMAR = "a grammar in the form of GBNF or Lark"
OUTPUTS = 'an object with one of json, regex, choice, grammar and json_object, like {"regex": "[a-z]+"}'

# Values of any type are taken, so that what asks for nothing can be told from what is wrong.
_Any: TypeAlias = Any
_Object: TypeAlias = Annotated[_Any, WithJsonSchema({"type": "object"})]
_Schema: TypeAlias = Annotated[_Any, WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]})]
_Text: TypeAlias = Annotated[_Any, WithJsonSchema({"type": "string"})]
_Texts: TypeAlias = Annotated[_Any, WithJsonSchema({"type": "array", "items": {"type": "string"}})]


class OutputFields(Lenient):
    """The fields of a body that say which form the reply has."""

    response_format: _Object = Field(None, description=FORMAT)
    structured_outputs: _Object = Field(None, description=OUTPUTS)
    guided_json: _Schema = Field(None, description=SCHEMA)
    guided_regex: _Text = Field(None, description=REGEX)
    guided_choice: _Texts = Field(None, description=CHOICES)
    guided_grammar: _Text = Field(None, description=GRAMMAR)
    json_schema: _Schema = Field(None, description=SCHEMA)
    regex: _Text = Field(None, description=REGEX)
    grammar: _Text = Field(None, description=GRAMMAR)
    ebnf: _Text = Field(None, description=GRAMMAR)


def read_output_format(body: OutputFields) -> Grammar | None:
    """Returns None for free text. Raises `BadRequest`; what the grammar itself says is looked at later."""
    found: Grammar | None = None
    for grammar in _given(body):
        if found is not None and _meaning(found) != _meaning(grammar):
            raise BadRequest(f"{found.field} and {grammar.field} differ: send one of them.", param=grammar.field)
        found = found or grammar
    return found


def read_format(form: object, field: str, *, flat: bool = False) -> Grammar | None:
    """Reads an object as `response_format` has it. A schema may also stand beside the type. Raises `BadRequest`.

    flat: beside the type is where this API's reference has it, as errors say.
    """
    if asks_for_nothing(form):
        return None
    if not isinstance(form, dict):
        raise BadRequest(f"{field} must be {FLAT_FORMAT if flat else FORMAT}.", param=field)
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            schema = form.get("schema")
            return Grammar("json_object", field=field) if schema is None else schema_grammar(schema, field)
        case "json_schema":
            return _named_schema(form, field, flat)
        case "grammar":
            return text_grammar("lark", form.get("grammar"), field, GRAMMAR)
        case "regex":
            return text_grammar("regex", form.get("regex", form.get("pattern")), field, REGEX)
    kind = form.get("type")
    shown = f" {kind} is not supported." if isinstance(kind, str) and SHOWN_TYPE.fullmatch(kind) else ""
    raise BadRequest(f"{field}.type must be text, json_object or json_schema.{shown}", param=field)


def schema_grammar(schema: object, field: str, *, strict: bool = True) -> Grammar:
    """The grammar of a JSON schema that stands in `field`; as text it is JSON. Raises `BadRequest`.

    strict: keywords that cannot be followed are an error; otherwise they are left out, with a warning.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise BadRequest(f"{field} must be {SCHEMA}.", param=field) from None
    if not isinstance(schema, dict) and schema is not True:
        raise BadRequest(f"{field} must be {SCHEMA}.", param=field)
    if nested_deeper(schema, MAX_LEVELS):
        raise BadRequest(f"{field} must be nested at most {MAX_LEVELS} levels deep.", param=field)
    if any(map(UNREADABLE.search, texts_in(schema))):
        raise BadRequest(f"{field} must be a JSON schema of {READABLE}.", param=field)
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False), field, strict)


def choice_grammar(choices: object, field: str) -> Grammar:
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(choice, str) and choice and not UNREADABLE.search(choice) for choice in choices)
    ):
        raise BadRequest(f"{field} must be {CHOICES}.", param=field)
    return Grammar("choice", json.dumps(choices, ensure_ascii=False), field)


def text_grammar(kind: Any, text: object, field: str, must_be: str) -> Grammar:
    if not isinstance(text, str) or not text or UNREADABLE.search(text):
        raise BadRequest(f"{field} must be {must_be}.", param=field)
    return Grammar(kind, text, field)


def _named_schema(form: Mapping[str, Any], field: str, flat: bool) -> Grammar:
    named = form.get("json_schema", form)
    where = field if flat and named is form else f"{field}.json_schema"
    if not isinstance(named, dict):
        raise BadRequest(f"{where} must be an object with a name and a schema.", param=field)
    strict = named.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise BadRequest(f"{where}.strict must be true or false.", param=field)
    if not isinstance(named.get("name", ""), str | None):
        raise BadRequest(f"{where}.name must be a text.", param=field)
    schema = named.get("schema", named.get("schema_"))
    if schema is None:
        raise BadRequest(f"{where}.schema is required: {SCHEMA}.", param=field)
    return schema_grammar(schema, field, strict=bool(strict))


_READERS: Mapping[str, Callable[[object, str], Grammar | None]] = {
    "response_format": read_format,
    "structured_outputs": lambda value, field: _structured_outputs(value, field),
    "guided_json": schema_grammar,
    "guided_regex": lambda value, field: text_grammar("regex", value, field, REGEX),
    "guided_choice": choice_grammar,
    "guided_grammar": lambda value, field: text_grammar("lark", value, field, GRAMMAR),
    "json_schema": schema_grammar,
    "regex": lambda value, field: text_grammar("regex", value, field, REGEX),
    "grammar": lambda value, field: text_grammar("lark", value, field, GRAMMAR),
    "ebnf": lambda value, field: text_grammar("lark", value, field, GRAMMAR),
}
# Of `structured_outputs`: what each part is called as a field of its own.
_PARTS = {"json": "guided_json", "regex": "regex", "choice": "guided_choice", "grammar": "grammar"}
_OPTIONS = ("backend", "disable_fallback")  # of the same, and taken with any value


def _given(body: OutputFields) -> Iterator[Grammar]:
    for field, read in _READERS.items():
        value = getattr(body, field)
        if not asks_for_nothing(value) and (grammar := read(value, field)) is not None:
            yield grammar


def _structured_outputs(value: object, field: str) -> Grammar | None:
    if not isinstance(value, dict):
        raise BadRequest(f"{field} must be {OUTPUTS}.", param=field)
    asked = {name: part for name, part in value.items() if name not in _OPTIONS and not asks_for_nothing(part)}
    if not asked:
        return None
    if len(asked) > 1 or not {*_PARTS, "json_object"}.issuperset(asked):
        raise BadRequest(f"{field} must be {OUTPUTS}.", param=field)
    ((name, part),) = asked.items()
    if name == "json_object":
        return Grammar("json_object", field=field)
    return _READERS[_PARTS[name]](part, field)


def _meaning(grammar: Grammar) -> tuple[str, object]:
    if grammar.kind == "json_schema":
        return grammar.kind, json.dumps(json.loads(grammar.text), sort_keys=True)
    return grammar.kind, grammar.text
