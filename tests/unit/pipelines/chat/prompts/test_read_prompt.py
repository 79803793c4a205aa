"""Messages become a prompt in a form that the template takes, and nothing is lost silently."""

from __future__ import annotations

import re

import pytest

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import ToolCall
from tests.support.chat_tokenizers import SPECIAL
from tests.support.conversations import (
    TIME,
    TOKENIZERS,
    WEATHER,
    WITH_TOOLS,
    assistant,
    read,
    result,
    system,
    text_of,
    user,
    with_template,
)


@pytest.mark.parametrize("family", SPECIAL)
def test_a_plain_conversation_is_rendered_as_the_library_renders_it_without_warnings(family: str) -> None:
    messages = [user("Hi"), assistant("Hello"), user("Tell me more")]
    parts = family == "parts only"
    turns = [
        {"role": m.role, "content": [{"type": "text", "text": m.content}] if parts else m.content} for m in messages
    ]
    expected = TOKENIZERS[family].apply_chat_template(turns, add_generation_prompt=True, return_dict=False)

    prompt = read(family, messages)

    assert list(prompt.tokens) == expected
    assert prompt.warnings == ()


def test_a_system_prompt_becomes_a_part_of_the_first_user_turn_where_the_template_refuses_it() -> None:
    prompt = read("gemma", [system("Be brief."), user("Hi")])

    assert "user\nBe brief.\n\nHi" in TOKENIZERS["gemma"].decode(prompt.tokens)
    (warning,) = prompt.warnings
    assert warning.startswith("System messages were put before the next message of the user, because")


def test_a_system_prompt_is_left_where_it_is_when_the_template_knows_it() -> None:
    assert read("llama2", [system("Be brief."), user("Hi")]).warnings == ()
    assert "<<SYS>>\nBe brief.\n<</SYS>>" in text_of("llama2", [system("Be brief."), user("Hi")])


def test_later_system_messages_go_to_the_next_user_turn_and_the_first_one_stays() -> None:
    messages = [system("Be brief."), user("Hi"), assistant("Hello"), system("Be kind."), user("And?")]

    assert "[INST] Be brief.\n\nBe kind.\n\nAnd?[/INST]" in text_of("mistral", messages)
    assert "system\nBe brief." in text_of("qwen3", messages)
    assert "user\nBe kind.\n\nAnd?" in text_of("qwen3", messages)


def test_a_system_message_that_no_user_follows_is_a_turn_of_the_user() -> None:
    assert "user\nBe brief.<end_of_turn>" in text_of("gemma", [system("Be brief.")])
    assert "Hi\n\nBe brief. [/INST]" in text_of("llama2", [user("Hi"), system("Be brief.")])


@pytest.mark.parametrize("family", ["gemma", "mistral", "llama2"])
def test_consecutive_messages_of_one_role_are_joined_where_roles_must_alternate(family: str) -> None:
    messages = [user("Hi"), user("And?"), assistant("Well"), assistant("yes"), user("Go on")]

    text, prompt = text_of(family, messages), read(family, messages)

    assert "Hi\n\nAnd?" in text
    assert "Well\n\nyes" in text
    (warning,) = prompt.warnings
    assert warning.startswith("Consecutive messages of one role were joined, because")


def test_system_prompt_and_consecutive_roles_are_mended_together() -> None:
    messages = [system("Be brief."), user("Hi"), user("And?")]

    assert "user\nBe brief.\n\nHi\n\nAnd?<end_of_turn>" in text_of("gemma", messages)
    assert len(read("gemma", messages).warnings) == 2


def test_content_becomes_a_list_of_parts_for_a_template_that_wants_one() -> None:
    prompt = read("parts only", [user("Hi")])

    assert TOKENIZERS["parts only"].decode(prompt.tokens).startswith("<|im_start|>user\nHi<|im_end|>")
    assert prompt.warnings == ()


def test_a_message_that_a_template_drops_silently_is_handed_to_it_in_another_form() -> None:
    drops_systems = with_template(
        "{% for m in messages if m.role != 'system' %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    )

    prompt = read_prompt(drops_systems, [system("Be brief."), user("Hi")])

    assert drops_systems.decode(prompt.tokens) == "user: Be brief.\n\nHi\n"


def test_a_message_that_a_template_drops_in_every_form_is_named_in_a_warning() -> None:
    only_the_last = with_template("{{ messages[-1].content }}")

    prompt = read_prompt(only_the_last, [user("one"), assistant("two"), user("three")])

    assert only_the_last.decode(prompt.tokens) == "three"
    assert prompt.warnings == (
        "The model's chat template left out or changed a part of a message of the user.",
        "The model's chat template left out or changed a part of a message of the assistant.",
    )


def test_calls_and_results_are_handed_to_a_template_that_knows_them() -> None:
    assert read("qwen3", WITH_TOOLS).warnings == ()
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>' in (
        text_of("qwen3", WITH_TOOLS)
    )
    assert "<tool_response>\n42\n</tool_response>" in text_of("qwen3", WITH_TOOLS)


def test_arguments_are_handed_over_as_text_to_a_template_that_wants_it() -> None:
    assert '<|sep|>weather\n```json\n{"city": "Paris"}\n```' in text_of("r1", WITH_TOOLS)
    assert read("r1", WITH_TOOLS).warnings == ()


def test_a_template_that_would_write_an_object_as_python_does_gets_text() -> None:
    prints = with_template(
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}: {{ c.function.arguments }}{% endfor %}{% endfor %}"
    )

    assert prints.decode(read_prompt(prints, WITH_TOOLS).tokens) == 'Weather?weather: {"city": "Paris"}42'


def test_ids_of_calls_get_the_form_that_mistral_takes() -> None:
    text = text_of("mistral", WITH_TOOLS)

    (called,), (answered,) = re.findall('"id": "(.*?)"', text), re.findall('"call_id": "(.*?)"', text)
    assert called == answered
    assert re.fullmatch("[a-zA-Z0-9]{9}", called)
    assert read("mistral", WITH_TOOLS).warnings == ()


@pytest.mark.parametrize("family", ["chatml", "gemma", "llama2"])
def test_calls_and_results_become_text_where_the_template_does_not_know_them(family: str) -> None:
    text = text_of(family, WITH_TOOLS)

    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>' in text
    assert "<tool_response>\nResult of weather:\n42\n</tool_response>" in text
    (warning,) = read(family, WITH_TOOLS).warnings
    assert warning.startswith("Tool calls and their results were written out as text, because")


def test_text_beside_a_call_is_a_message_of_its_own_where_the_template_would_drop_it() -> None:
    text = text_of("llama3", [user("Hi"), assistant("Let me see.", tool_calls=(WEATHER,)), result("42")])

    before, _, call = text.partition("Let me see.<|eot_id|>")
    assert before.endswith("assistant<|end_header_id|>\n\n")
    assert '{"name": "weather", "parameters": {"city": "Paris"}}' in call


@pytest.mark.parametrize("family", ["llama3", "harmony"])
def test_each_of_several_calls_stands_before_its_own_result_where_a_message_may_have_only_one(family: str) -> None:
    calls = assistant("", tool_calls=(WEATHER, TIME))

    text = text_of(family, [user("Hi"), calls, result("13", "call_2"), result("42", "call_1")])

    places = [text.index(part) for part in ("CET", "13", "Paris", "42")]
    assert places == sorted(places)


def test_gpt_oss_gets_thinking_with_the_call_and_content_apart() -> None:
    calls = assistant("Let me see.", thinking="They ask.", tool_calls=(WEATHER,))

    text = text_of("harmony", [user("Hi"), calls, result("42")])

    assert "<|channel|>final<|message|>Let me see.<|end|>" in text
    assert "<|channel|>analysis<|message|>They ask.<|end|>" in text


def test_a_result_without_its_call_is_not_lost() -> None:
    for family in SPECIAL:
        assert "42" in text_of(family, [user("Hi"), assistant("Yes"), result("42", "unknown"), user("And?")])


@pytest.mark.parametrize("arguments", ["", "{}", "[1, 2]", "no JSON", '{"a": {"b": [true, null, "deep"]}}', "{" * 5000])
def test_arguments_of_any_kind_are_taken(arguments: str) -> None:
    messages = [user("Hi"), assistant("", tool_calls=(ToolCall("c1", "weather", arguments),)), result("42", "c1")]

    for family in SPECIAL:
        assert "weather" in text_of(family, messages)
