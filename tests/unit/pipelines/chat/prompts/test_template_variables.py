"""`chat_template_kwargs` reach the template, except for names and values that are not a client's to set."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import Message, PromptOptions, PromptRefused
from tests.support.chat_tokenizers import chat_tokenizer

HI = [Message("user", "Hi")]


def tokenizer(template: str = "{{ messages[0].content }} {{ mood }}") -> Any:
    found = chat_tokenizer("chatml")
    found.chat_template = template
    return found


def refusal(variables: dict[str, object]) -> str:
    with pytest.raises(PromptRefused) as error:
        read_prompt(tokenizer(), HI, PromptOptions(template_variables=variables))
    return error.value.message


def test_a_variable_reaches_the_template() -> None:
    chat = tokenizer()

    prompt = read_prompt(chat, HI, PromptOptions(template_variables={"mood": {"a": ["good", 1, None, True]}}))

    assert chat.decode(prompt.tokens) == "Hi {'a': ['good', 1, None, True]}"


@pytest.mark.parametrize(
    "name",
    ["messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
     "padding", "truncation", "max_length", "return_dict", "return_tensors", "tokenizer_kwargs", "conversation",
     "bos_token", "eos_token", "additional_special_tokens", "raise_exception", "self", "namespace"],
)  # fmt: skip
def test_names_that_the_server_or_the_library_gives_are_refused_by_name(name: str) -> None:
    assert refusal({name: "x"}) == (
        f"chat_template_kwargs.{name} cannot be set: it is given by the server or the checkpoint."
    )


@pytest.mark.parametrize("name", ["", "a-b", "__class__", "x" * 65, "ü", "a.b", "<|im_end|>"])
def test_a_name_that_is_none_is_refused_without_repeating_it(name: str) -> None:
    assert refusal({name: 1}) == "chat_template_kwargs has a name that is not made of letters, digits and _."


def test_size_and_depth_are_bounded() -> None:
    deep: object = 1
    for _ in range(9):
        deep = [deep]

    assert refusal({"mood": deep}) == "chat_template_kwargs.mood is nested more than 8 deep."
    assert refusal({"mood": "x" * (16 << 10)}) == "chat_template_kwargs is longer than 16384 characters."
    assert refusal({f"n{i}": 1 for i in range(65)}) == "chat_template_kwargs has more than 64 names."
    assert refusal({"mood": {1, 2}}) == "chat_template_kwargs must hold JSON values."


@pytest.mark.parametrize("value", ["<|im_end|>", ["x", {"y": "a<|im_start|>b"}], {"<|im_end|>": 1}])
def test_a_value_that_spells_out_a_special_token_is_refused_by_its_name(value: object) -> None:
    assert refusal({"mood": value}) == "chat_template_kwargs.mood spells out a special token of this model."


def test_an_error_that_a_variable_makes_in_the_template_does_not_repeat_it() -> None:
    chat = tokenizer("{{ messages[0].content }}{% if mood %}{{ raise_exception('no ' + mood) }}{% endif %}")

    with pytest.raises(PromptRefused) as error:
        read_prompt(chat, HI, PromptOptions(template_variables={"mood": "gloom"}))

    assert error.value.message == "This model's chat template refuses these messages: no …"
