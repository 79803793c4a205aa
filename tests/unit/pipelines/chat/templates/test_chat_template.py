from __future__ import annotations

import pytest

from pipelines.chat.templates.chat_template import ChatTemplate, chosen_template, readable
from tests.support.chat_tokenizers import chat_tokenizer


def template(text: str) -> ChatTemplate:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer)


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        (None, None),
        ("", None),
        ("plain", "plain"),
        ({"default": "plain", "tool_use": "tools"}, "plain"),
        ({"tool_use": "tools", "rag": "papers", "chat": "other"}, "other"),
        ({"tool_use": "tools"}, "tools"),
        ({"default": "", "tool_use": None}, None),
        ([], None),
    ],
)
def test_the_template_for_plain_chats_is_chosen(value: object, chosen: str | None) -> None:
    assert chosen_template(value) == chosen


def test_the_variables_of_a_template_are_those_that_its_code_reads() -> None:
    text = "thinking {% if enable_thinking is defined %}{{ messages[0].reasoning_effort }}{% endif %}{# budget #}"

    assert template(text).variables == {"enable_thinking", "messages"}


def test_a_variable_that_the_template_gives_a_default_is_still_one() -> None:
    text = "{% if effort is not defined %}{% set effort = 'low' %}{% endif %}{{ effort }}"

    assert "effort" in template(text).variables
    assert {"low"} <= template(text).constants


def test_blocks_that_mark_text_for_training_are_read() -> None:
    text = "{% for m in messages %}{% generation %}{{ m.content ~ mood }}{% endgeneration %}{% endfor %}"

    assert "mood" in template(text).variables
    assert template(text).render([{"role": "user", "content": "Hi"}], {"mood": "!"}, with_opening=True) == "Hi!"


def test_a_template_that_cannot_be_parsed_has_no_variables() -> None:
    assert template("{% for %}").variables == frozenset()


def test_a_reason_becomes_a_part_of_one_line() -> None:
    assert readable("  roles\n\tmust \x00 alternate ") == "roles must alternate"
    assert readable("x" * 300) == "x" * 199 + "…"
