"""Messages that a template refuses: the client gets the template's own reason, and nothing else."""

from __future__ import annotations

import pytest

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import PromptOptions, PromptRefused
from tests.support.conversations import refusal, system, user, with_template


def test_the_templates_own_reason_is_in_the_refusal() -> None:
    never = with_template("{{ raise_exception('Only\n pictures, please\x1b') }}")

    with pytest.raises(PromptRefused) as error:
        read_prompt(never, [user("Hi")])

    assert error.value.message == "This model's chat template refuses these messages: Only pictures, please"


def test_a_reason_repeats_nothing_that_the_client_wrote() -> None:
    repeats = with_template("{{ raise_exception('I dislike ' + messages[0].content + ' and ' + mood) }}")

    with pytest.raises(PromptRefused) as error:
        read_prompt(repeats, [user("secrets")], PromptOptions(template_variables={"mood": "gloom"}))

    assert error.value.message == "This model's chat template refuses these messages: I dislike … and …"


def test_a_reason_that_depends_on_the_text_is_told_only_if_it_stands_in_the_template() -> None:
    picky = with_template(
        "{% set text = messages[0].content | string %}{{ text }}"
        "{% if 'red' in text %}{{ raise_exception('No colours') }}{% endif %}"
        "{% if 'two' in text %}{{ raise_exception('Not ' + text) }}{% endif %}"
    )

    with pytest.raises(PromptRefused, match="refuses these messages: No colours"):
        read_prompt(picky, [user("red")])
    with pytest.raises(PromptRefused) as error:
        read_prompt(picky, [user("two")])
    assert "two" not in error.value.message


def test_a_long_reason_is_cut() -> None:
    talks = with_template("{{ raise_exception('why ' * 1000) }}")

    with pytest.raises(PromptRefused) as error:
        read_prompt(talks, [user("Hi")])

    assert len(error.value.message) < 300


@pytest.mark.parametrize("template", ["{{ messages[7].content }}{{ 1 / 0 }}", "{% for %}", "{{ nothing.at.all }}"])
def test_a_template_that_fails_is_a_refusal_without_the_text_of_the_library(template: str) -> None:
    with pytest.raises(PromptRefused) as error:
        read_prompt(with_template(template), [user("Hi")])

    assert error.value.message == "This model's chat template fails on these messages."
    assert error.value.detail


def test_no_messages_and_no_template_are_refusals() -> None:
    assert refusal("chatml", []) == "There are no messages."
    for missing in (None, "", {}):
        with pytest.raises(PromptRefused, match="has no chat template"):
            read_prompt(with_template(missing), [user("Hi")])  # type: ignore[arg-type]


def test_messages_of_which_no_token_is_left_are_refused() -> None:
    assert "empty prompt" in refusal("llama2", [system("")])


def test_of_several_templates_the_one_for_plain_chats_is_taken() -> None:
    several = with_template({"tool_use": "tools", "default": "plain"})  # type: ignore[arg-type]

    assert several.decode(read_prompt(several, [user("Hi")]).tokens) == "plain"


def test_half_of_a_surrogate_pair_is_refused() -> None:
    assert refusal("chatml", [user("\ud83d")]) == "The messages contain characters that are no text."
