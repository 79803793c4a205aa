"""Calls apart from the text of a reply: ids, the number of calls, white space, and that nothing gets lost."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.tools.formats import FAMILIES, GENERIC, Family, call_format
from pipelines.chat_interface import CallDelta, ToolUse
from tests.support.call_samples import BY_NAME, NOW, SAMPLES, WEATHER, called, reader_of
from tests.support.section_samples import splits, tokenizer

MARKUP = [
    *sorted({opening.text for family in (*FAMILIES, GENERIC) for opening in family.openings}),
    "</tool_call>",
    "</function>",
    "<parameter=city>",
    "</parameter>",
    "get_weather",
    "now",
    "call:now{",
    '{"name": "now"',
    ', "arguments": {',
    "}",
    "]",
    "(",
    ")",
    "city",
    "=",
    '"',
    "'",
    "\\",
    "[ARGS]",
    "```",
    "\n",
    " ",
    "ü",
    "to=",
    ":0",
    ">",
    "a",
]
TEXTS = st.lists(st.sampled_from(MARKUP) | st.text(max_size=3), max_size=20).map("".join)


@given(st.sampled_from(sorted(BY_NAME)), TEXTS, st.data())
def test_any_text_is_read_to_its_end_without_loss(family: str, text: str, data: st.DataObject) -> None:
    whole = called(reader_of(family), text)
    parts = called(reader_of(family), data.draw(splits([Piece(text)])))

    assert (parts.content, parts.calls) == (whole.content, whole.calls)
    if not whole.calls:
        assert whole.content == text


@given(st.sampled_from(SAMPLES), TEXTS, TEXTS)
def test_complete_calls_are_valid_json_whatever_is_around_them(sample: object, before: str, behind: str) -> None:
    assert isinstance(sample, type(SAMPLES[0]))
    found = called(reader_of(sample.family), before + sample.reply + behind)

    if found.n_cut == 0:
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in found.calls)


def test_each_call_gets_an_id_of_its_own() -> None:
    found = called(reader_of("hermes"), '<tool_call>[{"name": "now"}, {"name": "now", "id": "abcdef123"}]</tool_call>')

    first, second = found.ids
    assert re.fullmatch("call_[0-9A-Za-z]{24}", first)
    assert re.fullmatch("call_[0-9A-Za-z]{24}", second)
    assert first != second


def test_the_ids_of_mistrals_models_are_kept_if_they_are_valid() -> None:
    use = ToolUse(tools=(NOW,))
    reply = "[TOOL_CALLS]now[CALL_ID]abcDEF123[ARGS]{}[TOOL_CALLS]now[CALL_ID]short[ARGS]{}"

    kept, made = called(call_format(tokenizer("{{ x }}"), BY_NAME["mistral-v11"], use).reader(), reply).ids

    assert kept == "abcDEF123"
    assert made.startswith("call_")


def test_a_reply_with_one_call_at_most_ends_behind_it() -> None:
    reader = reader_of("hermes", parallel=False)
    call = '<tool_call>\n{"name": "now", "arguments": {}'

    reader.push(Piece(call[:-1]))
    assert not reader.complete
    reader.push(Piece("}"))
    assert reader.complete
    assert reader.push(Piece("}\n</tool_call>\n<tool_call>" + call)) == ()
    assert reader.finish() == ()
    assert reader.n_calls == 1


def test_the_first_part_of_a_call_has_its_name_and_the_others_its_arguments() -> None:
    reader = reader_of("hermes")
    shown = [
        each
        for part in ('<tool_call>{"name": "get_', 'weather", "arguments": {"ci', 'ty": "R', 'om"}}', "</tool_call>")
        for each in reader.push(Piece(part))
    ]

    parts = [each for each in shown if isinstance(each, CallDelta)]
    assert parts == shown
    assert (parts[0].name, parts[0].arguments) == ("get_weather", "")
    assert [part.arguments for part in parts[1:]] == ['{"ci', 'ty": "R', 'om"}']
    assert {part.id for part in parts[1:]} == {""}


def test_a_long_string_in_markup_is_passed_on_as_it_comes() -> None:
    reader = reader_of("qwen-coder")
    reader.push(Piece("<function=get_weather>\n<parameter=city>\n"))

    (shown,) = reader.push(Piece('Zür"ich\n'))
    assert isinstance(shown, CallDelta)
    assert shown.arguments == 'Zür\\"ich'
    (shown,) = reader.push(Piece("\nx"))
    assert isinstance(shown, CallDelta)
    assert shown.arguments == "\\n\\nx"


@pytest.mark.parametrize("ending", ["", " ", "\n\n"])
def test_text_is_passed_on_at_once_but_for_white_space_at_its_end(ending: str) -> None:
    reader = reader_of("hermes")

    assert reader.push(Piece("Hello" + ending)) == [Piece("Hello")] if ending else (Piece("Hello"),)
    assert [*reader.push(Piece("x")), *reader.finish()][0].text.startswith(ending[:1])  # type: ignore[union-attr]


def test_special_tokens_of_what_was_no_call_stay_special() -> None:
    reader = reader_of("kimi")
    shown = [*reader.push(Piece("<|tool_call_begin|>", special=True)), *reader.push(Piece("fly:0 hm"))]
    shown += reader.finish()

    assert shown[0] == Piece("<|tool_call_begin|>", special=True)
    assert called(reader_of("kimi"), shown).content == "fly:0 hm"  # type: ignore[arg-type]


def test_a_tool_that_was_not_offered_is_not_called() -> None:
    use = ToolUse(tools=(WEATHER, NOW), choice="required", name="now")
    family: Family = BY_NAME["hermes"]
    reader = call_format(tokenizer("{{ x }}"), family, use).reader()
    reply = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'

    assert called(reader, reply).content == reply


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    """Each opening might make the reader look at all that follows: thousands of them would take minutes."""
    n = 5_000
    for text in ("<tool_call>", '<tool_call>{"arguments": "', "<tool_call>{", "[get_weather(", "<function="):
        found = called(reader_of("hermes"), [Piece(text)] * n)
        assert found.content == text * n
