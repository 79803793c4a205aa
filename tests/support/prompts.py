"""Prompts of chats for tests: of a tokenizer's chat template, or without any tokenizer."""

from __future__ import annotations

from typing import Any

from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import Message, Prompt

EMPTY = Prompt(tokens=(1,))  # for jobs whose lane never reads it


def asked(tokenizer: Any, text: str) -> Prompt:
    """The prompt of one message of a user."""
    return read_prompt(tokenizer, [Message("user", text)])
