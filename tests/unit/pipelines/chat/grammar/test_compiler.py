"""Grammars of all kinds are compiled, and what cannot be followed is refused in little time, with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.chat.grammar.compiler import NO_GRAMMARS, GrammarCompiler
from pipelines.chat.grammar.lark import lark_of, rule_of
from pipelines.chat.grammar.vocabulary import NoVocabulary, read_vocabulary
from pipelines.chat_interface import Grammar, PromptRefused
from tests.support.constrained import compiler_of, schema_of
from tests.support.tokenizer_kinds import KINDS, tokenizer_of

GBNF = 'root ::= "a" digit+ ("x" | "y")*\ndigit ::= [0-9]\n'
A = {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "string"}}, "required": ["kind"]}
B = {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]}


def matches(grammar: Grammar, text: str) -> bool:
    """Whether a reply may be this text."""
    matcher = compiler_of("chatml").compile(grammar).begin()
    return all(matcher.consume_token(byte) for byte in _tokens(text)) and matcher.is_accepting()


def _tokens(text: str) -> list[int]:
    from tests.support.chat_tokenizers import chat_tokenizer

    return list(chat_tokenizer("chatml").encode(text, add_special_tokens=False))


def refusal(grammar: Grammar) -> str:
    with pytest.raises(PromptRefused) as refused:
        compiler_of("chatml").compile(grammar)
    assert refused.value.field == grammar.field
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400
    return refused.value.message


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        (Grammar("json_object"), ['{"a": [1, null]}', "{}"], ["[]", '{"a"', "x{}"]),
        (schema_of({"enum": [1, "é"]}), ["1", '"é"'], ["2"]),
        (schema_of(True), ["1", "[{}]"], ["a"]),
        (Grammar("regex", "^a/[0-9]+$"), ["a/1"], ["a/", "ba/1"]),
        (Grammar("regex", "a\nb"), ["a\nb"], ["ab"]),
        (Grammar("choice", '["x \\"y\\"", "\\n/é"]'), ['x "y"', "\n/é"], ["x"]),
        (Grammar("lark", 'start: "a" /[0-9]+/ %json {"type": "null"}'), ["a1null"], ["a1"]),
        (Grammar("lark", GBNF), ["a1", "a12xyx"], ["a", "a1z"]),
        (Grammar("lark", 'start: <|im_start|> "a"'), ["<|im_start|>a"], ["a"]),
    ],
)
def test_each_kind_of_grammar_allows_what_it_describes(grammar: Grammar, right: list[str], wrong: list[str]) -> None:
    assert all(matches(grammar, text) for text in right)
    assert not any(matches(grammar, text) for text in wrong)


def test_a_grammar_can_be_a_rule_of_another() -> None:
    for grammar, text in (
        (Grammar("json_object"), "{}"),
        (Grammar("regex", "a+"), "aa"),
        (Grammar("choice", '["a"]'), "a"),
        (Grammar("lark", 'start: "a" b\nb: "b"'), "ab"),
        (Grammar("lark", GBNF), "a1"),
    ):
        both = Grammar("lark", f'start: "call" | answer\n{rule_of(grammar, "answer")}')
        assert matches(both, text)
        assert matches(both, "call")


def test_white_space_in_json_is_a_line_break_and_an_indentation_at_most() -> None:
    assert matches(Grammar("json_object"), '{\n    "a": 1}')
    assert not matches(Grammar("json_object"), '{\n\n"a": 1}')
    assert not matches(Grammar("json_object"), "{\n" + " " * 21 + '"a": 1}')


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (schema_of({"items": {"uniqueItems": True, "type": "array"}}), 'keywords are not supported: "uniqueItems".'),
        (schema_of({"type": "string", "format": "shoe-size"}), "Unknown format: shoe-size."),
        (schema_of({"type": "shoe"}), "Invalid type: shoe."),
        (schema_of({"$ref": "#/$defs/nope"}), "Pointer '/$defs/nope' does not exist."),
        (schema_of({"$ref": "https://example.com/schema"}), "Default retriever does not fetch"),
        (schema_of({"type": "string", "minLength": 5, "maxLength": 3}), "minLength (5) is greater than maxLength (3)."),
        (schema_of({"type": "string", "pattern": "a(?=b)"}), "look-ahead and look-behind, is not supported."),
        (schema_of(False), "response_format allows nothing."),
        (schema_of([1]), "response_format must be an object."),
        (Grammar("json_schema", "{"), "response_format is no JSON."),
        (Grammar("regex", "[", "regex"), "regex cannot be followed: unclosed character class."),
        (Grammar("regex", ""), "response_format is empty."),
        (Grammar("choice", "[]"), "has no choices."),
        (Grammar("lark", "start: nope"), 'unknown name: "nope".'),
        (Grammar("lark", "start: <nope>"), 'unknown special token: "<nope>".'),
        (Grammar("lark", 'root ::= "a" nope', "grammar"), "grammar is no GBNF: Rule 'nope' not found."),
        (Grammar("lark", 'root ::= "\ud800"', "grammar"), "grammar"),
        (Grammar("regex", "a" * (257 << 10)), "is longer than 262,144 characters."),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(grammar: Grammar, message: str) -> None:
    assert message in refusal(grammar)


def test_keywords_that_cannot_be_followed_are_left_out_with_a_warning_unless_the_schema_is_strict() -> None:
    loose = schema_of({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, strict=False)

    (warning,) = compiler_of("chatml").compile(loose).warnings

    assert '"uniqueItems"' in warning
    assert matches(loose, "[null, null]")
    assert not matches(loose, "[1]")


def test_one_of_schemas_that_exclude_each_other_is_followed_and_of_others_refused() -> None:
    by_kind = schema_of({"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": A, "b": B}})
    assert matches(by_kind, '{"kind": "a", "x": "y"}')
    assert matches(by_kind, '{"kind": "c"}')
    assert not matches(by_kind, '{"kind": "d"}')

    both = {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}
    assert "oneOf constraints are not supported." in refusal(schema_of(both))
    assert "oneOf was read as anyOf" in compiler_of("chatml").compile(schema_of(both, strict=False)).warnings[0]


def nested(levels: int) -> Any:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


TERMS = "\n".join(f"T{i}: T{i + 1} T{i + 1}" for i in range(60))
PATTERNS = " & ".join(f"/.*{letter}.{{50}}/" for letter in "abcdefghijklmnop")
BOMBS: dict[str, Grammar] = {
    "deep": schema_of(nested(300)),
    "a loop of references": schema_of({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {}]}}}),
    "itself": schema_of({"$ref": "#"}),
    "all of many patterns": schema_of({"allOf": [{"type": "string", "pattern": f".*[ab].{{{i}}}"} for i in range(60)]}),
    "many choices of choices": schema_of(
        {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {}}} for j in range(2)]} for i in range(22)]}
    ),
    "many optional properties": schema_of(
        {"type": "object", "properties": {f"property{i}": {"type": "string"} for i in range(6000)}}
    ),
    "many required properties": schema_of({"type": "object", "required": [f"p{i}" for i in range(10_000)]}),
    "a large divisor": schema_of({"type": "integer", "multipleOf": 999_999_937}),
    "patterns of names": schema_of({"patternProperties": {f"^a.*{i}.{{30}}": {} for i in range(300)}}),
    "one of many": schema_of({"oneOf": [{"properties": {"k": {"minimum": i}}} for i in range(1000)]}),
    "a chain of rules": Grammar("lark", f'start: T0\n{TERMS}\nT60: "a"'),
    "parentheses": Grammar("lark", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "parentheses in GBNF": Grammar("lark", "root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000),
    "many regular expressions at once": Grammar("lark", f"start: T\nT: {PATTERNS}"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name: str) -> None:
    assert refusal(BOMBS[name])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"enum": ["a"]}, "minItems": 10**9},
        {"type": "string", "maxLength": 10**9},
        {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"},
        {"type": "array", "minItems": 1000, "items": {"type": "array", "minItems": 1000, "items": {}}},
        {"enum": [f"value {i}" for i in range(5000)]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
    ],
)
def test_what_is_large_but_cheap_to_follow_is_taken(schema: Any) -> None:
    assert not compiler_of("chatml").compile(schema_of(schema)).warnings


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_a_text_have_its_bytes_whatever_the_tokenizer(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    if kind in ("BPE with suffixes", "BPE in Python"):  # a token's text depends on the next one
        with pytest.raises(NoVocabulary):
            read_vocabulary(tokenizer)
        with pytest.raises(PromptRefused) as refused:
            GrammarCompiler(tokenizer).compile(Grammar("json_object"))
        assert refused.value.message == NO_GRAMMARS
        return
    vocabulary = read_vocabulary(tokenizer)
    text = "the server keeps a model"
    ids = [token for token in tokenizer.encode(text, add_special_tokens=False) if token != tokenizer.unk_token_id]

    assert b"".join(vocabulary.tokens[token] for token in ids).strip() == tokenizer.decode(ids).strip().encode()


def test_a_grammar_is_compiled_once_and_each_reply_has_a_state_of_its_own() -> None:
    grammar = Grammar("choice", '["ab", "cd"]')
    compiled = compiler_of("chatml").compile(grammar)
    assert compiler_of("chatml").compile(grammar) is compiled

    one, other = compiled.begin(), compiled.begin()
    assert one.consume_token(_tokens("a")[0])
    assert other.consume_token(_tokens("c")[0])


def test_tokens_that_hold_the_end_of_the_thinking_and_more_are_found() -> None:
    tokenizer = tokenizer_of("SmolLM2")
    overrunning = read_vocabulary(tokenizer).overrunning(">")

    names = tokenizer.convert_ids_to_tokens([*overrunning])
    assert "></" in names
    assert not {">", ">Ċ", ">ĊĊ", "->"} & {*names}


def test_grammars_without_need_of_a_trial_are_the_usual_ones() -> None:
    from pipelines.chat.grammar.trial import is_cheap

    assert is_cheap(lark_of(Grammar("json_object")))
    assert is_cheap(lark_of(schema_of(A)))
    assert not is_cheap(lark_of(schema_of({"pattern": "a"})))
    assert not is_cheap(lark_of(Grammar("lark", 'start: %json {"p\\u0061ttern": "a"}')))
    assert json.loads(lark_of(schema_of({"p\u0061ttern": "a"})).partition("%json")[2])["pattern"] == "a"
