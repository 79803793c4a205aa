"""Calls of tools in the formats of model families, however their text is cut into pieces."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from pipelines.chat.replies.detokenize import Piece
from tests.support.call_samples import BY_NAME, SAMPLES, Sample, called, cuts, reader_of
from tests.support.section_samples import pieces

IDS = [str(sample) for sample in SAMPLES]


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_a_reply_is_parted_into_calls_and_content(sample: Sample) -> None:
    found = called(reader_of(sample.family), pieces(sample.reply, sample.special))

    assert (found.parsed, found.content, found.n_cut) == (sample.calls, sample.content, 0)


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_markers_that_are_text_are_read_as_those_that_are_special_tokens(sample: Sample) -> None:
    found = called(reader_of(sample.family), sample.reply)

    assert (found.parsed, found.content) == (sample.calls, sample.content)


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_calls_do_not_depend_on_how_the_text_is_cut(sample: Sample) -> None:
    whole = pieces(sample.reply, sample.special)
    expected = replace(called(reader_of(sample.family), whole), ids=())

    for cut in cuts(whole):
        assert replace(called(reader_of(sample.family), cut), ids=()) == expected


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_a_call_that_is_cut_off_is_text_or_goes_as_far_as_it_came(sample: Sample) -> None:
    whole = called(reader_of(sample.family), sample.reply)

    for end in range(len(sample.reply)):
        found = called(reader_of(sample.family), sample.reply[:end])
        for (name, arguments), (full_name, full_arguments) in zip(found.calls, whole.calls, strict=False):
            assert name == full_name
            if not found.n_cut:
                assert json.loads(arguments).items() <= json.loads(full_arguments).items()
            elif arguments != full_arguments:
                assert full_arguments.startswith(arguments.rstrip('"'))
        if not found.calls:
            assert found.content == sample.reply[:end]


@pytest.mark.parametrize("family", BY_NAME)
def test_each_family_has_a_sample(family: str) -> None:
    assert family == "harmony" or any(sample.family == family for sample in SAMPLES)


@pytest.mark.parametrize("family", BY_NAME)
@pytest.mark.parametrize(
    "reply",
    [
        "Hello, how are you?",
        ' {"name": "fly", "arguments": {}} and more',
        '{"name": "now", "age": 3}',
        '{"answer": [1, 2]}',
        "[1] See get_weather(city) or [now(] below",
        "<tool_call>\nfly\n</tool_call> is not there",
        '<tool_call>\n{"name": "fly", "arguments": {}}\n</tool_call>',
        "a <tool_call> b <function=fly> c [TOOL_CALLS] d <|tool_call> e <minimax:tool_call>",
        "```json\n{\"a\": 1}\n```",
        "<function=get_weather",
        "if a < b and b > c: [x for x in y]  \n",
    ],
)  # fmt: skip
def test_what_is_no_call_of_a_known_tool_stays_text(family: str, reply: str) -> None:
    found = called(reader_of(family), reply)

    assert (found.content, found.calls) == (reply, ())
    for cut in cuts(pieces(reply)):
        assert called(reader_of(family), cut) == found


def test_text_behind_a_call_that_breaks_off_is_not_lost() -> None:
    reply = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rom", oops}}\n</tool_call>'

    found = called(reader_of("hermes"), reply)

    assert found.calls == (("get_weather", '{"city": "Rom", '),)
    assert found.content == "oops}}\n</tool_call>"
    assert found.n_cut == 1


def test_a_call_is_found_behind_one_that_is_none() -> None:
    reply = '<tool_call>\nno <tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'

    found = called(reader_of("hermes"), reply)

    assert (found.parsed, found.content) == ((("now", {}),), "<tool_call>\nno")


def test_deepseek_says_of_each_argument_whether_it_is_text() -> None:
    reply = (
        '<｜DSML｜function_calls><｜DSML｜invoke name="now">'
        '<｜DSML｜parameter name="zone" string="true">1</｜DSML｜parameter>'
        '<｜DSML｜parameter name="year" string="false">1</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜function_calls>'
    )

    assert called(reader_of("deepseek-v3.2"), reply).parsed == (("now", {"zone": "1", "year": 1}),)


def test_white_space_that_goes_on_and_on_is_looked_at_once() -> None:
    n_tokens = 30_000
    began = time.process_time()
    found = called(reader_of("hermes"), [*([Piece("\n")] * n_tokens), Piece("So"), *([Piece(" ")] * n_tokens)])

    assert found.content == "\n" * n_tokens + "So" + " " * n_tokens
    assert time.process_time() - began < 2  # looked at again with each token it would take half a minute
