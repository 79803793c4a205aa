"""Where in a reply the grammar decides: behind the thinking and the markup around it, until the answer is complete."""

from __future__ import annotations

import pytest

from pipelines.chat.grammar.constrained_reply import ReplyRefused
from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.reply_text import FREE, NextPart
from pipelines.chat.replies.thinking_tags import TagFormat, Tags
from pipelines.chat_interface import Grammar
from tests.support.constrained import PERSON, Writer, schema_of

WORD = Grammar("regex", "[a-z]{2,5}")
PERSONS = schema_of(PERSON)
IM_START = "<|im_start|>assistant\n"
HEADER = "<|start|>assistant"


def test_a_reply_ends_by_itself_when_nothing_more_may_come() -> None:
    writer = Writer("chatml", Grammar("choice", '["red", "green"]'), IM_START)

    writer.write("red")

    assert writer.finish == "stop"
    assert writer.chat.replied("stop").text == "red"
    assert writer.chat.replied("stop").completion_tokens == 3


def test_the_end_is_allowed_only_where_the_grammar_may_end() -> None:
    writer = Writer("chatml", WORD, IM_START)

    assert "<|im_end|>" not in writer.allowed
    assert "<|im_end|>" not in writer.write("h").allowed
    assert "<|im_end|>" in writer.write("i").allowed

    writer.write("<|im_end|>")
    assert (writer.finish, writer.chat.text.text) == ("stop", "hi")


def test_further_end_tokens_end_a_reply_where_the_grammar_may_end() -> None:
    end = Writer("chatml", WORD, IM_START).tokenizer.convert_tokens_to_ids("<|endoftext|>")
    writer = Writer("chatml", WORD, IM_START, stop_tokens=(end,))

    assert "<|endoftext|>" not in writer.write("h").allowed
    assert {"<|endoftext|>", "<|im_end|>"} <= set(writer.write("i").allowed)


def test_end_tokens_that_are_ignored_are_never_allowed() -> None:
    writer = Writer("chatml", WORD, IM_START, ignores_end=True)

    assert "<|im_end|>" not in writer.write("abcd").allowed
    writer.write("e")
    assert writer.finish == "stop"


def test_a_complete_form_that_is_shorter_than_the_least_tokens_ends_with_a_warning() -> None:
    writer = Writer("chatml", Grammar("choice", '["red"]'), IM_START, min_tokens=10).write("red")

    assert writer.finish == "stop"
    assert writer.chat.warnings == ("min_tokens: the form of the reply was complete after 3 tokens.",)


def test_a_stop_string_and_the_most_tokens_cut_a_reply_as_usual() -> None:
    assert Writer("chatml", WORD, IM_START, stop=("i",)).write("hi").finish == "stop"
    assert Writer("chatml", WORD, IM_START, max_tokens=2).write("hi").finish == "length"
    assert Writer("chatml", Grammar("choice", '["hi"]'), IM_START, max_tokens=2).write("hi").finish == "stop"


def test_a_continued_message_follows_the_grammar_from_where_it_goes_on() -> None:
    writer = Writer("qwen3", Grammar("regex", r'"[a-z]+"\}'), IM_START + '{"name": ')

    writer.write('"anna"}')

    assert writer.finish == "stop"
    assert not Writer("qwen3", WORD, IM_START + "Yes, ").may_write("<think>")


def test_a_model_may_think_before_the_answer() -> None:
    writer = Writer("qwen3", PERSONS, IM_START)
    assert writer.may_write("<think>")
    assert writer.may_write("{")
    assert not writer.may_write("I")

    writer.write("<think>\nAnna { is 31.\n")
    assert "<|im_end|>" not in writer.allowed, "a reply must have an answer"
    writer.write('</think>\n\n{"name": "Anna", "age": 31}')

    reply = writer.chat.replied("stop")
    assert writer.finish == "stop"
    assert (reply.thinking, reply.text) == ("Anna { is 31.", '{"name": "Anna", "age": 31}')


def test_an_answer_may_begin_at_once_and_the_tag_is_then_no_longer_allowed() -> None:
    writer = Writer("qwen3", PERSONS, IM_START).write('{"')

    assert not writer.may_write("<think>")


def test_thinking_that_the_prompt_has_opened_is_free() -> None:
    writer = Writer("qwen3", PERSONS, IM_START + "<think>\n")

    writer.write('So, "Anna".</think>')
    assert writer.may_write("\n\n")
    assert not writer.may_write("S")
    writer.write('{"name": "A", "age": 1}')

    assert writer.finish == "stop"


def test_white_space_between_thinking_and_answer_is_bounded() -> None:
    writer = Writer("qwen3", PERSONS, IM_START + "<think>\n").write("x</think>")

    writer.write("\n" * 4)

    assert not writer.may_write("\n")
    assert writer.may_write("{")


def test_a_model_that_is_not_to_think_may_not_begin_with_it() -> None:
    assert not Writer("qwen3", PERSONS, IM_START, max_thinking_tokens=0).may_write("<think>")
    assert not Writer("qwen3", PERSONS, IM_START + "<think>\n\n</think>\n\n").may_write("<think>")


def test_tokens_that_are_forced_to_end_the_thinking_are_not_the_grammars() -> None:
    writer = Writer("qwen3", PERSONS, IM_START + "<think>\n", max_thinking_tokens=2)

    writer.write("ab\n</think>\n\n" + '{"name": "A", "age": 1}')

    assert writer.finish == "stop"
    assert writer.chat.replied("stop").text == '{"name": "A", "age": 1}'


def test_the_final_channel_of_gpt_oss_has_the_form_and_its_markup_leads_there() -> None:
    writer = Writer("harmony", PERSONS, HEADER)
    assert writer.allowed == ["<|channel|>"]

    writer.write("<|channel|>analysis<|message|>The user is <Anna>.")
    assert "<|return|>" not in writer.allowed
    writer.write("<|end|>")
    assert writer.allowed == ["<|start|>"]
    writer.write('<|start|>assistant<|channel|>final<|message|>{"name": "Anna", "age": 31}')

    reply = writer.chat.replied("stop")
    assert writer.finish == "stop"
    assert (reply.thinking, reply.text) == ("The user is <Anna>.", '{"name": "Anna", "age": 31}')


def test_gpt_oss_may_answer_at_once_but_not_in_another_channel() -> None:
    writer = Writer("harmony", WORD, HEADER).write("<|channel|>")
    assert writer.may_write("final")
    assert writer.may_write("analysis")
    assert not writer.may_write("commentary")

    assert "<|return|>" not in writer.write("final<|message|>h").allowed
    assert writer.write("i<|return|>").finish == "stop"


def test_gpt_oss_that_is_not_to_think_begins_with_the_answer() -> None:
    assert Writer("harmony", WORD, HEADER, max_thinking_tokens=0).write("<|channel|>").allowed == ["f"]
    assert Writer("harmony", WORD, HEADER + "<|channel|>final<|message|>").write("hi<|return|>").finish == "stop"


def test_a_grammar_of_the_whole_reply_has_the_markup_of_gpt_oss_too() -> None:
    call = Grammar("lark", 'start: <|channel|> "commentary to=f" <|message|> /[0-9]+/ <|call|>', whole=True)
    writer = Writer("harmony", call, HEADER)

    writer.write("<|channel|>analysis<|message|>x<|end|>" + HEADER + "<|channel|>")
    assert not writer.may_write("final")
    writer.write("commentary to=f<|message|>12<|call|>")

    assert writer.finish == "stop"


def test_a_grammar_that_the_model_has_no_tokens_for_ends_the_reply_with_the_reason() -> None:
    writer = Writer("chatml", Grammar("regex", "a+"), IM_START).write("a")
    assert writer.chat.constrained is not None
    writer.chat.constrained._matcher.consume_token(1)  # as if the grammar had lost track

    assert len(writer.allowed) == len(writer.tokenizer)
    with pytest.raises(ReplyRefused, match="response_format cannot be followed"):
        writer.chat.append(5)


def test_a_tag_of_several_tokens_is_followed_to_its_end() -> None:
    format_ = TagFormat(Tags("<think>", "</think>"), {}, header="")
    reader = format_.reader("<think>")

    reader.push(Piece("so a < b </thi"))
    assert reader.next_part == NextPart(closing="nk>")
    reader.push(Piece("s"))
    assert reader.next_part == FREE
    reader.push(Piece("</think>"))
    assert reader.next_part == NextPart(answer=True, white=True)
