"""Replies that follow the grammar of a model's calls are read as such calls, whatever their tokens are."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from tokenizers import AddedToken

from pipelines.chat.grammar.compiler import CompiledGrammar, GrammarCompiler
from pipelines.chat.replies.detokenize import Detokenizer, Piece
from pipelines.chat.tools.call_grammar import FIELD, MAX_CALLS, reply_grammar
from pipelines.chat.tools.formats import FAMILIES, GENERIC, Family, call_format
from pipelines.chat_interface import Grammar, PromptRefused, Tool, ToolUse
from tests.support.call_samples import Called, called
from tests.support.chat_tokenizers import chat_tokenizer

BOOK = Tool(
    "book.room",
    "",
    {
        "type": "object",
        "properties": {
            "hotel": {"type": "string", "maxLength": 8},
            "nights": {"type": "integer"},
            "kind": {"enum": ["single", "double"]},
            "guests": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 9}, "maxItems": 2},
            "wishes": {"type": "object", "properties": {"view": {"type": "null"}}, "additionalProperties": False},
        },
        "required": ["hotel", "nights", "kind", "guests", "wishes"],
        "additionalProperties": False,
    },
)
NOW = Tool("now")
TOOLS = {tool.name: tool for tool in (BOOK, NOW)}
# Of gpt-oss, what parts a reply into messages reads the markup first: see test_enforced_calls.
ALL = [family for family in (*FAMILIES, GENERIC) if family.name != "harmony"]
MARKER = re.compile(r"<[｜|][^<>\n]*[｜|]>|\[[A-Z_]+\]|<\|[a-z_]+>|<[a-z_]+\|>|</?(?:start|end)_function_call>")
ANSWER = Grammar("json_schema", '{"type": "object", "properties": {"x": {"type": "null"}}, "required": ["x"]}')


def made_tokenizer(family: Family) -> Any:
    """A tokenizer whose special tokens are the markers of the family."""
    tokenizer = chat_tokenizer("chatml")
    written = family.written
    markers = MARKER.findall(written.before + written.call + written.end + written.after)
    tokenizer.add_tokens([AddedToken(each, special=True) for each in sorted(set(markers))], special_tokens=True)
    return tokenizer


def random_reply(constraint: CompiledGrammar, tokenizer: Any, seed: int) -> list[int]:
    """Tokens chosen at random of those that are allowed, with a liking for ends."""
    matcher, chance = constraint.begin(), random.Random(seed)
    quote, brace = (tokenizer.convert_tokens_to_ids(each) for each in '"}')
    tokens: list[int] = []
    while len(tokens) < 2_000:
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = set(map(int, np.nonzero(np.unpackbits(mask, bitorder="little"))[0]))
        if not allowed or (constraint.end in allowed and (len(allowed) == 1 or chance.random() < 0.5)):
            return tokens
        allowed -= {constraint.end}
        liked = [each for each in (quote, brace) if each in allowed]
        token = chance.choice(liked if liked and chance.random() < 0.5 else sorted(allowed))
        assert matcher.consume_token(token)
        tokens.append(token)
    raise AssertionError(f"no end: {tokenizer.decode(tokens)[:200]}")


def read(reader: Any, tokenizer: Any, tokens: Sequence[int]) -> Called:
    stream = Detokenizer(tokenizer).stream()
    pieces: list[Piece] = [piece for token in tokens for piece in stream.push(token)]
    return called(reader, [*pieces, *stream.finish()])


def random_replies(family: Family, use: ToolUse, form: Grammar | None = None) -> list[Called]:
    """Eight replies of random tokens, as they are read."""
    tokenizer = made_tokenizer(family)
    calls = call_format(tokenizer, family, use)
    grammar = reply_grammar(tokenizer, calls, use, form)
    assert grammar is not None
    constraint = GrammarCompiler(tokenizer).compile(grammar)
    return [read(calls.reader(), tokenizer, random_reply(constraint, tokenizer, seed)) for seed in range(8)]


def check(found: Called) -> None:
    assert found.n_cut == 0
    for name, arguments in found.parsed:
        assert isinstance(arguments, dict)
        jsonschema_rs.validate(TOOLS[name].parameters or {"maxProperties": 0}, arguments)


@pytest.mark.parametrize("family", ALL, ids=[family.name for family in ALL])
def test_a_required_call_is_read_and_matches_its_schema(family: Family) -> None:
    replies = random_replies(family, ToolUse(tools=tuple(TOOLS.values()), choice="required"))

    for found in replies:
        check(found)
        assert 1 <= len(found.calls) <= MAX_CALLS
        assert found.content == ""
    assert {name for found in replies for name, _ in found.calls} == set(TOOLS)


@pytest.mark.parametrize("family", ALL, ids=[family.name for family in ALL])
def test_a_reply_with_a_form_is_an_answer_of_that_form_or_calls(family: Family) -> None:
    replies = random_replies(family, ToolUse(tools=tuple(TOOLS.values())), ANSWER)

    for found in replies:
        check(found)
        if not found.calls:
            assert json.loads(found.content)["x"] is None
        else:
            assert found.content == ""
    assert {bool(found.calls) for found in replies} == {False, True}


def grammar_text(use: ToolUse) -> str:
    tokenizer = made_tokenizer(GENERIC)
    grammar = reply_grammar(tokenizer, call_format(tokenizer, GENERIC, use), use, None)
    assert grammar is not None
    assert grammar.field == FIELD
    return grammar.text


def test_a_named_tool_is_the_only_one_that_is_called() -> None:
    text = grammar_text(ToolUse(tools=tuple(TOOLS.values()), choice="required", name="now"))

    assert "now" in text
    assert "book.room" not in text


def test_without_parallel_calls_there_is_one() -> None:
    use = ToolUse(tools=(NOW,), choice="required", parallel=False)
    tokenizer = made_tokenizer(GENERIC)
    grammar = reply_grammar(tokenizer, call_format(tokenizer, GENERIC, use), use, None)
    assert grammar is not None

    tokens = random_reply(GrammarCompiler(tokenizer).compile(grammar), tokenizer, 1)

    assert tokenizer.decode(tokens).count("<tool_call>") == 1


def test_nothing_is_enforced_where_the_model_may_choose() -> None:
    use = ToolUse(tools=(NOW,))
    tokenizer = made_tokenizer(GENERIC)

    assert reply_grammar(tokenizer, call_format(tokenizer, GENERIC, use), use, None) is None
    assert reply_grammar(tokenizer, None, ToolUse(), ANSWER) is ANSWER


def test_a_grammar_of_ones_own_beside_tools_is_refused() -> None:
    use = ToolUse(tools=(NOW,))
    tokenizer = made_tokenizer(GENERIC)

    with pytest.raises(PromptRefused, match="cannot be combined with tools") as error:
        reply_grammar(tokenizer, call_format(tokenizer, GENERIC, use), use, Grammar("lark", "start: /a/"))
    assert error.value.field == "response_format"
