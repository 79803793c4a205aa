"""Finds out how a model's replies tell thinking from answer. Any thread; no torch."""

from __future__ import annotations

from typing import Any

from pipelines.chat.channels import channel_format
from pipelines.chat.reply_format import PlainFormat, ReplyFormat
from pipelines.chat.response_template import template_format
from pipelines.chat.thinking_tags import tag_format

__all__ = ["ReplyFormat", "reply_format"]


def reply_format(tokenizer: Any) -> ReplyFormat:
    """Return the format of the replies of the model that this tokenizer belongs to.

    What the tokenizer declares (`response_template`) counts more than what its chat template and tokens suggest.
    """
    template = _chat_template(tokenizer)
    added = list(getattr(tokenizer, "added_tokens_decoder", {}).values())
    names = {token.content for token in added}
    special = {token.content for token in added if token.special}
    known = (
        channel_format(template, names, special)
        or tag_format(template, names, _reply_header(tokenizer) if template else "")
        or PlainFormat()
    )
    return template_format(getattr(tokenizer, "response_template", None), known) or known


def _chat_template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):  # several, by name
        return "\n".join(map(str, template.values()))
    return template if isinstance(template, str) else ""


def _reply_header(tokenizer: Any) -> str:
    """Return what the chat template writes where a reply begins; "" if that cannot be told."""
    messages = [{"role": "user", "content": "Hi"}]
    try:
        turn, prompt = (
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begins)
            for begins in (False, True)
        )
        return str(prompt).removeprefix(turn)
    except Exception:  # noqa: BLE001  # a template is a program by the checkpoint's author: it may raise anything
        return ""
