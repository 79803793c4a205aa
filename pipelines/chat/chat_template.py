"""Turns messages into prompt tokens by the model's chat template. Any thread; no torch.

Text that a user typed never becomes a special token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pipelines.interface import Message

# Private-use characters around a message's index: the placeholder for its content when the template is rendered alone.
_PLACEHOLDER = "\ue000{}\ue001"
_PLACEHOLDERS = re.compile("\ue000([0-9]+)\ue001")


class PromptRefused(Exception):
    """These messages cannot become a prompt of this model. The text is for the log."""


def prompt_tokens(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of the prompt, up to where the assistant's reply begins.

    Usually these are the tokens of the rendered template. If they hold other special tokens than the template itself
    put there, a message spelled out a special token. Then each message is tokenized by itself, as plain text, between
    the template's parts.
    """
    contents = [message.content for message in messages]
    rendered = _render(tokenizer, messages, contents)
    skeleton = _render(tokenizer, messages, [_PLACEHOLDER.format(index) for index in range(len(messages))])
    tokens = _encode(tokenizer, rendered)
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    parts = _PLACEHOLDERS.split(skeleton)  # template, index, template, index, …, template
    template = [_encode(tokenizer, part) for part in parts[::2]]
    if [token for token in tokens if token in special] == [t for part in template for t in part if t in special]:
        return tokens
    plain = [_encode(tokenizer, contents[int(index)], split_special_tokens=True) for index in parts[1::2]]
    if any(token in special for part in plain for token in part):
        raise PromptRefused("the tokenizer makes special tokens of plain text")
    joined = template[0]
    for content, part in zip(plain, template[1:], strict=True):
        joined = joined + content + part
    return joined


def _render(tokenizer: Any, messages: Sequence[Message], contents: Sequence[str]) -> str:
    if not tokenizer.chat_template:
        raise PromptRefused("the model has no chat template")
    turns = [{"role": m.role, "content": content} for m, content in zip(messages, contents, strict=True)]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program by the checkpoint's author: it may raise anything
        raise PromptRefused(str(error)) from error


def _encode(tokenizer: Any, text: str, **options: bool) -> list[int]:
    try:
        return list(tokenizer.encode(text, add_special_tokens=False, **options))
    except (TypeError, ValueError) as error:  # half of a surrogate pair is a Python string but not text
        raise PromptRefused(str(error)) from error
