"""Random conversations over templates built as those of well-known families: what holds for every one of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import Message, Prompt, PromptOptions, PromptRefused, ToolCall
from tests.support.chat_tokenizers import SPECIAL, chat_tokenizer

pytestmark = pytest.mark.slow

TOKENIZERS = {family: chat_tokenizer(family) for family in SPECIAL}
MARKUP = [
    *sorted({token for _, tokens in SPECIAL.values() for token in tokens}),
    "<think>", "</think>", "<tool_call>", "</tool_response>", "<|channel|>final<|message|>", "<|im_", "end|>",
    "\ue0000\ue001", "\ufdd0", "{{ 7 }}", "{% raw %}", "\\n", '"', "'",
]  # fmt: skip

words = st.one_of(
    st.text(max_size=8),
    st.sampled_from(MARKUP),
    st.sampled_from(["Hi", " ", "\n", "\n\n", "1.", "你好", "👩‍👩‍👧", "é", "<", "|>"]),
)
texts = st.lists(words, max_size=5).map("".join)
names = st.one_of(st.none(), texts)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), texts),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
arguments = st.one_of(texts, st.dictionaries(texts, json_values, max_size=3).map(json.dumps))
calls = st.builds(ToolCall, id=texts, name=texts, arguments=arguments)
messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts, name=names),
    st.builds(Message, st.just("assistant"), texts, thinking=texts, tool_calls=st.lists(calls, max_size=3).map(tuple)),
    st.builds(Message, st.just("tool"), texts, name=names, tool_call_id=names),
)
options = st.builds(
    PromptOptions,
    effort=st.sampled_from([None, "none", "minimal", "low", "medium", "high"]),
    continues=st.sampled_from([None, False, True]),
    template_variables=st.dictionaries(st.sampled_from(["enable_thinking", "reasoning_effort", "x"]), json_values),
)
families = st.sampled_from(sorted(SPECIAL))
unhurried = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(family: str, conversation: list[Message], options: PromptOptions = PromptOptions()) -> Prompt | str:  # noqa: B008
    try:
        return read_prompt(TOKENIZERS[family], conversation, options)
    except PromptRefused as error:
        return error.message


def own_specials(family: str, prompt: Prompt) -> list[int]:
    tokenizer = TOKENIZERS[family]
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special} - {tokenizer.unk_token_id}
    return [token for token in prompt.tokens if token in special]


@unhurried
@given(families, st.lists(messages, max_size=6), options)
def test_a_conversation_becomes_a_prompt_or_is_refused_and_nothing_else_happens(
    family: str, conversation: list[Message], options: PromptOptions
) -> None:
    prompt = read(family, conversation, options)

    if isinstance(prompt, Prompt):
        assert prompt.tokens
        assert all(isinstance(token, int) for token in prompt.tokens)
        assert all(warning.endswith(".") for warning in prompt.warnings)


@unhurried
@given(families, st.lists(messages, min_size=1, max_size=6))
def test_no_text_of_a_message_is_left_out_silently(family: str, conversation: list[Message]) -> None:
    prompt = read(family, conversation)
    if isinstance(prompt, str) or any("left out or changed" in warning for warning in prompt.warnings):
        return
    text = squeezed(TOKENIZERS[family].decode(prompt.tokens))

    for message in conversation:
        content = message.content
        if message.role == "assistant":
            content = content.rpartition("</think>")[2]
        assert squeezed(content) in text or squeezed(json.dumps(content, ensure_ascii=False)[1:-1]) in text
        for call in message.tool_calls:
            assert squeezed(call.name) in text or squeezed(json.dumps(call.name, ensure_ascii=False)[1:-1]) in text


def squeezed(text: str) -> str:
    """The text without the spaces that templates trim and tokenizers add, and in one form of lone surrogates."""
    return "".join(text.split()).replace("▁", "")


@unhurried
@given(families, st.lists(messages, min_size=1, max_size=5), st.data())
def test_what_a_client_spells_out_never_becomes_a_special_token(
    family: str, conversation: list[Message], data: Any
) -> None:
    """Each text is compared with a harmless one that is as empty or not: the template sees the same conversation."""
    prompt = read(family, conversation)
    if isinstance(prompt, str):
        return

    def harmless(text: str) -> str:
        return "text" if text.strip() else text

    same = [
        Message(
            m.role,
            harmless(m.content),
            harmless(m.thinking),
            m.name and harmless(m.name),
            tuple(
                ToolCall(c.id, harmless(c.name), "{}" if c.arguments.startswith("{") else "[]") for c in m.tool_calls
            ),
            m.tool_call_id,
        )
        for m in conversation
    ]
    other = read(family, same)
    assert isinstance(other, Prompt)
    if other.warnings == prompt.warnings:
        assert own_specials(family, prompt) == own_specials(family, other)
    else:  # in another form, a part of it has been left out for what it says
        assert len(own_specials(family, prompt)) <= len(own_specials(family, other)) + 4 * len(conversation)


@unhurried
@given(families, st.lists(messages, max_size=4), texts)
def test_a_continued_message_is_the_end_of_the_prompt(family: str, conversation: list[Message], begun: str) -> None:
    prompt = read(family, [*conversation, Message("assistant", begun)])
    if isinstance(prompt, str) or not begun.strip():
        return

    assert prompt.opening.endswith(begun)
    assert squeezed(TOKENIZERS[family].decode(prompt.tokens)).endswith(squeezed(begun))
