"""Conversations, and the prompts that the tokenizers of `chat_tokenizers` make of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import Message, Prompt, PromptOptions, PromptRefused, ToolCall
from tests.support.chat_tokenizers import SPECIAL, chat_tokenizer

TOKENIZERS = {family: chat_tokenizer(family) for family in SPECIAL}
WEATHER = ToolCall("call_1", "weather", '{"city": "Paris"}')
TIME = ToolCall("call_2", "time", '{"zone": "CET"}')


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str, **more: Any) -> Message:
    return Message("assistant", text, **more)


def system(text: str) -> Message:
    return Message("system", text)


def result(text: str, of: str = "call_1") -> Message:
    return Message("tool", text, tool_call_id=of)


def read(family: str, messages: Sequence[Message], **options: Any) -> Prompt:
    return read_prompt(TOKENIZERS[family], messages, PromptOptions(**options))


def text_of(family: str, messages: Sequence[Message], **options: Any) -> str:
    """The prompt as text, without the space that some tokenizers write behind a special token."""
    text = str(TOKENIZERS[family].decode(read(family, messages, **options).tokens))
    return re.sub(r"(<start_of_turn>|<end_of_turn>|\[INST\]|\[/INST\]|\[TOOL_CALLS\]|\[TOOL_RESULTS\]) ", r"\1", text)


def refusal(family: str, messages: Sequence[Message], **options: Any) -> str:
    with pytest.raises(PromptRefused) as error:
        read(family, messages, **options)
    return error.value.message


def with_template(template: str, family: str = "chatml") -> Any:
    tokenizer = chat_tokenizer(family)
    tokenizer.chat_template = template
    return tokenizer


WITH_TOOLS = [user("Weather?"), assistant("", tool_calls=(WEATHER,)), result("42")]
