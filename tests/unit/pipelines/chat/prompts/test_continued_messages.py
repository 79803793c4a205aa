"""A last message of the assistant is continued by the reply."""

from __future__ import annotations

import pytest

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import PromptRefused
from tests.support.chat_tokenizers import SPECIAL
from tests.support.conversations import TOKENIZERS, WITH_TOOLS, assistant, read, refusal, text_of, user, with_template


@pytest.mark.parametrize("family", SPECIAL)
def test_a_last_message_of_the_assistant_is_continued(family: str) -> None:
    messages = [user("Name the primary colours."), assistant("The three primary colours are red,")]

    text = text_of(family, messages)

    assert text.endswith("The three primary colours are red,")
    assert text_of(family, messages, continues=True) == text
    assert read(family, messages).opening.endswith("The three primary colours are red,")
    again = text_of(family, messages, continues=False)
    assert not again.endswith("red,")
    assert "The three primary colours are red," in again


def test_white_space_of_a_continued_message_is_kept_where_the_template_would_trim_it() -> None:
    assert text_of("gemma", [user("Hi"), assistant("  1. ")]).endswith("model\n  1. ")


def test_an_empty_message_of_the_assistant_begins_the_reply() -> None:
    assert text_of("chatml", [user("Hi"), assistant("")]) == text_of("chatml", [user("Hi")])


def test_a_message_that_is_not_the_assistants_cannot_be_continued() -> None:
    assert "continue_final_message needs a last message of the assistant; the last one is of the user" in (
        refusal("chatml", [user("Hi")], continues=True)
    )
    assert "calls tools" in refusal("qwen3", WITH_TOOLS[:2], continues=True)


def test_a_message_that_calls_tools_is_not_continued_unasked() -> None:
    assert text_of("qwen3", WITH_TOOLS[:2]).endswith("<|im_start|>assistant\n")


def test_a_template_that_drops_the_last_message_cannot_continue_it() -> None:
    drops = with_template("{% for m in messages %}{{ m.content if m.role == 'user' else '' }}{% endfor %}")

    with pytest.raises(PromptRefused, match="rewrites the last message, so that it cannot be continued"):
        read_prompt(drops, [user("Hi"), assistant("Well")])


def test_consecutive_messages_of_the_assistant_are_continued_at_the_last() -> None:
    assert text_of("gemma", [user("Hi"), assistant("Well"), assistant("yes, ")]).endswith("model\nWell\n\nyes, ")


@pytest.mark.parametrize("family", ["r1", "qwen3"])
@pytest.mark.parametrize("begun", ["<think>\nThey", "<think>\nThey greet.\n</think>\n\nHello"])
def test_a_continued_message_that_brings_its_own_thinking_gets_no_second_block(family: str, begun: str) -> None:
    prompt = read(family, [user("Hi"), assistant(begun)])

    assert TOKENIZERS[family].decode(prompt.tokens).endswith(begun)
    assert prompt.opening.count("<think>") == 1


def test_thinking_of_a_continued_message_stands_before_it() -> None:
    assert text_of("qwen3", [user("Hi"), assistant("Hello", thinking="They greet.")]).endswith(
        "<think>\nThey greet.\n</think>\n\nHello"
    )
