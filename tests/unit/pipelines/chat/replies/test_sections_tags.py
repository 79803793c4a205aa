"""Thinking between tags at the beginning of a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.sections import reply_format
from pipelines.chat.replies.thinking_tags import KNOWN_ANSWERS, KNOWN_TAGS, TagFormat, Tags
from tests.support.section_samples import (
    QWEN3,
    R1,
    Seen,
    pieces,
    read,
    replies,
    seen,
    shown_while_streaming,
    splits,
    tokenizer,
)

TURN = "<|im_end|>\n<|im_start|>assistant\n"
OPENED = "<|Assistant|><think>\n"
THINK = ("<think>", "</think>")
qwen3 = reply_format(tokenizer(QWEN3, plain=THINK))
r1 = reply_format(tokenizer(R1, special=["<|User|>", "<|Assistant|>"], plain=THINK))


def test_tags_that_the_model_writes_surround_its_thinking() -> None:
    reply = "<think>\nThey greet me.\n</think>\n\nHello there!"
    assert read(qwen3, TURN, reply) == Seen("They greet me.", "Hello there!", ("</think>",))


def test_thinking_that_the_prompt_has_opened_goes_on_to_the_closing_tag() -> None:
    assert read(r1, OPENED, "They greet me.\n</think>\n\nHi!") == Seen("They greet me.", "Hi!", ("</think>",))


def test_a_prompt_that_opens_and_closes_thinking_begins_with_the_answer() -> None:
    assert read(qwen3, TURN + "<think>\n\n</think>\n\n", "\n Hello") == Seen("", "Hello")
    assert read(r1, "<|Assistant|></think>", "Hello") == Seen("", "Hello")  # DeepSeek V3.1


def test_a_reply_without_tags_is_content_with_its_white_space() -> None:
    assert read(qwen3, TURN, "\n  Hello ") == Seen("", "\n  Hello ")


def test_tags_that_the_answer_mentions_are_text() -> None:
    assert read(qwen3, TURN, "Use <think> and </think>.") == Seen("", "Use <think> and </think>.")
    reply = "<think>a <think> b</think>Say </think> <think>x</think>."
    assert read(qwen3, TURN, reply) == Seen("a <think> b", "Say </think> <think>x</think>.", ("</think>",))


def test_an_empty_block_of_thinking_leaves_no_trace() -> None:
    assert read(qwen3, TURN, "<think>\n\n</think>\n\nHi") == Seen("", "Hi", ("</think>",))
    assert read(qwen3, TURN, "\n<think></think>\nHi") == Seen("", "Hi", ("</think>",))  # GLM 4.5


def test_a_second_block_right_behind_the_first_is_thinking_too() -> None:
    seen_ = read(qwen3, TURN, "<think>one</think>\n<think>two</think>Hi <think>")
    assert (seen_.thinking, seen_.content) == ("one\n\ntwo", "Hi <think>")


def test_a_tag_that_the_model_repeats_is_not_shown() -> None:
    assert read(r1, OPENED, "<think>\nOne.</think>\n</think>Hi").thinking == "One."
    assert read(r1, OPENED, "<think>\nOne.</think>\n</think>Hi").content == "Hi"


def test_a_reply_that_ends_while_thinking_has_no_content() -> None:
    assert read(r1, OPENED, "They greet\n") == Seen("They greet", "")
    assert read(r1, OPENED, "They greet</thi") == Seen("They greet</thi", "")
    assert read(qwen3, TURN, "<think>\n") == Seen()
    assert read(qwen3, TURN, "<think>a</think>\n\n") == Seen("a", "", ("</think>",))


def test_part_of_a_tag_that_never_becomes_one_is_shown() -> None:
    assert read(qwen3, TURN, " <thi") == Seen("", " <thi")
    assert read(qwen3, TURN, "<thinker>") == Seen("", "<thinker>")
    assert read(qwen3, TURN, "<think>a</thing></think>b").thinking == "a</thing>"


def test_white_space_around_tags_is_held_back_while_streaming() -> None:
    texts = ["<", "think", ">", "\n", "One", "\n", "two", ".\n", "</", "think>", "\n\n", "H", "i", "\n"]
    said = [("", "")] * 4 + [("One", ""), ("", ""), ("\ntwo", ""), (".", "")] + [("", "")] * 3
    assert shown_while_streaming(qwen3, TURN, texts) == [*said, ("", "H"), ("", "i"), ("", "\n"), ("", "")]


def test_the_section_of_the_next_token_changes_with_the_tags() -> None:
    reader = qwen3.reader(TURN)
    sections = [reader.section]
    for text in ("<think>", "\n", "One", "</think>", "\n\n", "Hi"):
        reader.push(Piece(text))
        sections.append(reader.section)
    assert sections == ["content", "thinking", "thinking", "thinking", "content", "content", "content"]


def test_unknown_special_tokens_are_passed_on_in_their_section() -> None:
    passed = read(qwen3, TURN, pieces("<x><think><x>One.<x></think><x>Hi<x>", ["<x>"]))
    assert passed == Seen("One.", "Hi", ("<x>", "</think>", "<x>", "<x>"))


def test_a_continued_answer_goes_on_as_it_is() -> None:
    assert read(qwen3, TURN + "The three", " primary <think>") == Seen("", " primary <think>")
    assert read(qwen3, TURN + "Use\n<think> tags", " to think") == Seen("", " to think")
    assert read(qwen3, TURN + "<think>\nOne.\n</think>\n\nThe three", " primary") == Seen("", " primary")


def test_continued_thinking_goes_on_as_it_is() -> None:
    assert read(qwen3, TURN + "<think>\nThey", " greet.\n</think>\n\nHi") == Seen(" greet.", "Hi", ("</think>",))


def test_thinking_of_an_earlier_message_in_the_opening_does_not_count() -> None:
    opening = TURN + "<think>\nA call.<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n"
    assert read(qwen3, opening, "It is 4.") == Seen("", "It is 4.")


def test_without_a_known_header_the_last_tag_of_the_prompt_counts() -> None:
    unknown = TagFormat(Tags(*THINK), {}, header="")
    assert read(unknown, "ASSISTANT: <think>\n", "One.</think>Hi") == Seen("One.", "Hi", ("</think>",))
    assert read(unknown, "ASSISTANT: <think></think>", " Hi") == Seen("", "Hi")
    assert read(unknown, "ASSISTANT:", " Hi") == Seen("", " Hi")


@pytest.mark.parametrize("tags", KNOWN_TAGS, ids=lambda tags: tags.open)
def test_each_known_pair_is_found_in_a_template_and_separates(tags: Tags) -> None:
    found = reply_format(tokenizer("{{ messages[0].content }}" + tags.open + "x" + tags.close))
    passed = read(found, "", f"{tags.open}\nOne.\n{tags.close}\nHi")
    assert (passed.thinking, passed.content) == ("One.", "Hi")


def test_a_pair_is_found_in_the_added_tokens() -> None:
    mistral = reply_format(tokenizer("{{ messages[0].content }}", special=["[THINK]", "[/THINK]"]))
    reply = pieces("[THINK]One.[/THINK]Hi", ["[THINK]", "[/THINK]"])
    assert read(mistral, "[/INST]", reply) == Seen("One.", "Hi", ("[/THINK]",))


def test_a_tag_of_a_special_token_and_text_is_one_tag() -> None:
    gemma = reply_format(tokenizer("{{ '<|turn>model\n<|channel>thought\n<channel|>' }}"))
    special = ["<|channel>", "<channel|>"]
    reply = pieces("<|channel>thought\nOne.<channel|>Hi", special)
    assert read(gemma, "<|turn>model\n", reply) == Seen("One.", "Hi", ("<channel|>",))


@pytest.mark.parametrize("begin", KNOWN_ANSWERS)
def test_tags_around_the_answer_are_not_shown(begin: str) -> None:
    found = TagFormat(Tags(*THINK), KNOWN_ANSWERS, header="")
    reply = f"<think>One.</think>\n{begin}\nHi {begin} there\n{KNOWN_ANSWERS[begin]}\n"
    assert read(found, "", reply).content == f"Hi {begin} there"
    assert read(found, "", [*pieces(reply), Piece("<end>", special=True)]).content == f"Hi {begin} there"
    assert read(found, begin, f"Hi{KNOWN_ANSWERS[begin]}").content == "Hi"


def test_the_end_of_an_answer_that_goes_on_was_a_mention() -> None:
    found = TagFormat(Tags(*THINK), KNOWN_ANSWERS, header="")
    assert read(found, "", "<answer>Use \n</answer>\n or </b> \n").content == "Use \n</answer>\n or </b> \n"


def test_an_answer_tag_that_the_model_does_not_know_is_text() -> None:
    assert read(qwen3, TURN, "<think>a</think><answer>b</answer>").content == "<answer>b</answer>"


def test_thinking_is_ended_as_the_template_writes_it() -> None:
    assert qwen3.closing == "\n</think>\n\n"
    glm = reply_format(tokenizer("{{ '<|assistant|>\\n<think></think>\\n' }}"))
    assert glm.closing == "</think>\n"
    assert glm.without_thinking("<|assistant|>") == "<think></think>\n"


def test_a_prompt_without_thinking_closes_what_it_opens() -> None:
    assert qwen3.without_thinking(TURN) == "<think>\n\n</think>\n\n"
    assert r1.without_thinking(OPENED) == "\n</think>\n\n"
    assert r1.without_thinking("<|Assistant|><think>") == "\n\n</think>\n\n"
    assert qwen3.without_thinking(TURN + "<think>\nThey greet") == "\n</think>\n\n"


@pytest.mark.parametrize("begun", ["<think>\n\n</think>\n\n", "The three", "<think>x</think>The three"])
def test_a_prompt_that_has_closed_thinking_needs_nothing(begun: str) -> None:
    assert qwen3.without_thinking(TURN + begun) == ""


MARKUP = [*THINK, "<answer>", "</answer>", "<x>"]
everything = TagFormat(Tags(*THINK), KNOWN_ANSWERS, header="<|im_start|>assistant")


@given(st.data())
def test_any_split_of_any_reply_gives_the_same_sections(data: st.DataObject) -> None:
    opening = TURN + data.draw(st.sampled_from(["", "<think>\n", "<think>a", "<think>a</think>\n", "<answer>", "a"]))
    special = data.draw(st.sets(st.sampled_from(MARKUP)))
    whole = pieces(data.draw(replies(MARKUP)), special)
    assert read(everything, opening, data.draw(splits(whole))) == read(everything, opening, whole)


@given(replies(MARKUP), st.sampled_from(["", "<think>\n", "<think>a", "<think>a</think>\n", "a"]))
def test_all_text_of_any_reply_but_white_space_and_tags_is_passed_on(reply: str, begun: str) -> None:
    reader = everything.reader(TURN + begun)
    passed = [*reader.push(Piece(reply)), *reader.finish()]
    assert "".join("".join(piece.text for _, piece in passed).split()) == "".join(reply.split())
    tags = {piece.text for _, piece in passed if piece.special}
    assert tags <= set(MARKUP)
    shown = seen(passed)
    assert shown.thinking.strip() == shown.thinking or begun == "<think>a"
