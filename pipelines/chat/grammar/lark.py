r"""Writes every kind of grammar in Lark's form, as llguidance reads it. Any thread; no torch.

The dialect is that of llguidance, described in github.com/guidance-ai/llguidance, file syntax.md of the docs:

    start: <|tool|> "call" (call | TEXT)
    call: %json {"type": "object"}
    TEXT: /[a-z]+/ & ~/call/

Rules have small letters and terminals capitals; a terminal is one regular expression, with `&` and `~` as further
operators, without look-around. `<|tool|>` is the special token of that name, `%json` stands for JSON of a schema. White
space counts, unless `%ignore` names it. Schemas should be put in by `json_rule`, which bounds white space: small models
otherwise write it without end. Texts with rules like `root ::= …` are GBNF, the form of llama.cpp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark

from pipelines.chat.grammar.one_of import exclusive_as_any
from pipelines.chat_interface import Grammar

MAX_CHARS = 256 << 10
MAX_GBNF_CHARS = 32 << 10  # it is converted in Python, while others wait
MAX_DEPTH = 96  # of lists and objects in a schema: llguidance reads 128
# Our own vocabulary would have to tokenize what grammars prescribe. The model's own choice of tokens is better.
HEAD = '%llguidance {"no_forcing": true}\n'
WHITE_SPACE = r"\n?[ \t]{0,20}"  # at most, between two parts of JSON: a line break and an indentation

_GBNF_RULE = re.compile(r"(?m)^[ \t]*[A-Za-z][\w-]*[ \t]*::=")


class BadGrammar(Exception):
    """The grammar cannot be read. The message is a part of a sentence, for the client."""


def lark_of(grammar: Grammar) -> str:
    """The grammar in Lark's form. Raises `BadGrammar`."""
    if grammar.kind == "lark":
        return HEAD + _lark(grammar.text)
    return HEAD + rule_of(grammar, "start")


def rule_of(grammar: Grammar, name: str) -> str:
    """A rule of this name, which is in small letters, for a grammar that has others besides. Raises `BadGrammar`."""
    if len(grammar.text) > MAX_CHARS:
        raise BadGrammar(f"is longer than {MAX_CHARS:,} characters")
    terminal = f"{name.upper()}_TEXT"
    match grammar.kind:
        case "json_object":
            return f"{name}: {json_rule({'type': 'object'})}\n"
        case "json_schema":
            return f"{name}: {json_rule(_schema(grammar.text), lenient=not grammar.strict)}\n"
        case "regex":
            return f"{name}: {terminal}\n{terminal}: {_regex(grammar.text)}\n"
        case "choice":
            return f"{name}: {terminal}\n{terminal}: {' | '.join(map(_quoted, _choices(grammar.text)))}\n"
        case "lark":
            return f"{name}: %lark {{\n{HEAD}{_lark(grammar.text)}\n}}\n"


def json_rule(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    """The right side of a rule in Lark's form: JSON of the schema, with little white space.

    lenient: keywords that cannot be followed are left out, with a warning. Raises `BadGrammar`.
    """
    options = {"whitespace_pattern": WHITE_SPACE, "coerce_one_of": lenient, "lenient": lenient}
    try:
        return "%json " + json.dumps({**exclusive_as_any(schema), "x-guidance": options}, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadGrammar("is no JSON") from error


def _lark(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise BadGrammar(f"is longer than {MAX_CHARS:,} characters")
    return _from_gbnf(text) if _GBNF_RULE.search(text) else text


def _schema(text: str) -> Mapping[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadGrammar("is no JSON") from error
    if schema is True:
        return {}
    if schema is False:
        raise BadGrammar("allows nothing")
    if not isinstance(schema, dict):
        raise BadGrammar("must be an object")
    if _depth(schema) > MAX_DEPTH:
        raise BadGrammar(f"is nested deeper than {MAX_DEPTH} levels")
    return schema


def _depth(value: object) -> int:
    level, depth = [value], 0
    while level:
        nested = [each for each in level if isinstance(each, dict | list)]
        level = [inner for each in nested for inner in (each.values() if isinstance(each, dict) else each)]
        depth += bool(nested)
    return depth


def _choices(text: str) -> list[str]:
    try:
        choices = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadGrammar("is no list of texts") from error
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise BadGrammar("must be a list of texts")
    if not choices:
        raise BadGrammar("has no choices")
    return choices


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(regex: str) -> str:
    if not regex:
        raise BadGrammar("is empty")
    return "/" + regex_to_lark(regex.replace("\n", r"\n"), use_ascii="d") + "/"


def _from_gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if len(text) > MAX_GBNF_CHARS:
        raise BadGrammar(f"is longer than {MAX_GBNF_CHARS:,} characters, which is the most of a grammar in GBNF")
    try:
        return str(gbnf_to_lark(text))
    except RecursionError as error:
        raise BadGrammar("is nested too deep") from error
    except Exception as error:  # it raises plain exceptions for what it cannot read
        raise BadGrammar(f"is no GBNF: {error}") from error
