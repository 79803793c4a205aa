"""Finds out how a model's replies tell thinking from answer. Any thread, one at a time per tokenizer; no torch."""

from __future__ import annotations

from typing import Any

from pipelines.chat.replies.channels import channel_format
from pipelines.chat.replies.reply_format import PlainFormat, ReplyFormat
from pipelines.chat.replies.response_template import template_format
from pipelines.chat.replies.thinking_tags import tag_format
from pipelines.chat.templates.chat_template import ChatTemplate, TemplateFailed
from pipelines.chat.templates.message_forms import Turn
from pipelines.chat_interface import PromptRefused

__all__ = ["ReplyFormat", "reply_format"]


def reply_format(tokenizer: Any) -> ReplyFormat:
    """Return the format of the replies of the model that this tokenizer belongs to.

    What the tokenizer declares (`response_template`) counts more than what its chat template and tokens suggest.
    """
    try:
        template = ChatTemplate(tokenizer)
        text, header = template.text, _reply_header(template)
    except PromptRefused:
        text, header = "", ""
    added = list(getattr(tokenizer, "added_tokens_decoder", {}).values())
    names = {token.content for token in added}
    special = {token.content for token in added if token.special}
    known = channel_format(text, names, special) or tag_format(text, names, header) or PlainFormat()
    return template_format(getattr(tokenizer, "response_template", None), known) or known


def _reply_header(template: ChatTemplate) -> str:
    """Return what the chat template writes where a reply begins; "" if that cannot be told."""
    turns: list[Turn] = [{"role": "user", "content": "Hi"}]
    try:
        without, with_header = (template.render(turns, {}, with_opening=begins) for begins in (False, True))
    except TemplateFailed:
        return ""
    return with_header.removeprefix(without)
