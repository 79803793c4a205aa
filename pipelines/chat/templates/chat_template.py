"""Runs a model's chat template, and tells what its text asks for. Any thread; no torch.

A chat template is a program by the checkpoint's author. It may raise anything; only what it says by `raise_exception`
is meant for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import jinja2
from jinja2 import nodes

from pipelines.chat.templates.language import template_environment
from pipelines.chat.templates.message_forms import Turn
from pipelines.chat_interface import PromptRefused

MAX_REASON_CHARS = 200
DEFAULT = "default"  # of several templates, the one for plain chats
FOR_TOOLS = "tool_use"  # the one for chats with tools
NOT_PLAIN = (FOR_TOOLS, "rag")


class TemplateFailed(Exception):
    """The template does not render these messages. reason: what it says about it, or ""; detail: for the log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class ChatTemplate:
    def __init__(self, tokenizer: Any, *, for_tools: bool = False) -> None:
        """Raises `PromptRefused` when the tokenizer has no template. for_tools: choose the one that shows tools."""
        text = chosen_template(getattr(tokenizer, "chat_template", None), for_tools=for_tools)
        if not text:
            raise PromptRefused("This model has no chat template.")
        self.text = text
        self._tokenizer = tokenizer

    @property
    def variables(self) -> frozenset[str]:
        """The names that the template reads."""
        return _names(self.text)

    @property
    def constants(self) -> frozenset[str]:
        """The texts in quotes, and those between the blocks."""
        return _constants(self.text)

    def render(self, turns: Sequence[Turn], variables: Mapping[str, object], *, with_opening: bool) -> str:
        """Raises `TemplateFailed`. with_opening: the beginning of the assistant's next turn stands at the end."""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(turns),
                    chat_template=self.text,
                    tokenize=False,
                    add_generation_prompt=with_opening,
                    **variables,
                )
            )
        except PromptRefused:  # it took too long, and would in any other form
            raise
        except Exception as error:  # a template is a program: it may raise anything
            reason = str(error) if type(error) is jinja2.TemplateError else ""
            raise TemplateFailed(reason, f"{type(error).__name__}: {error}") from error


def chosen_template(value: object, *, for_tools: bool = False) -> str | None:
    """Returns the template for plain chats, or for those with tools. value: of a tokenizer, one or several by name."""
    if isinstance(value, str):
        return value or None
    if not isinstance(value, Mapping):
        return None
    named = {name: text for name, text in value.items() if isinstance(text, str) and text}
    first = [FOR_TOOLS, DEFAULT] if for_tools else [DEFAULT]
    order = [*first, *(name for name in named if name not in NOT_PLAIN), *named]
    return next((named[name] for name in order if name in named), None)


def readable(reason: str) -> str:
    """Returns what a template says, as a part of one line."""
    text = " ".join("".join(char if char.isprintable() else " " for char in reason).split())
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"


@lru_cache(maxsize=64)
def _parsed(text: str) -> nodes.Template:
    try:
        return template_environment().parse(text)
    except (jinja2.TemplateError, RecursionError):  # rendering tells what is wrong
        return nodes.Template([], lineno=1)


@lru_cache(maxsize=64)
def _names(text: str) -> frozenset[str]:
    return frozenset(node.name for node in _parsed(text).find_all(nodes.Name) if node.ctx == "load")


@lru_cache(maxsize=64)
def _constants(text: str) -> frozenset[str]:
    tree = _parsed(text)
    quoted = (cast(object, node.value) for node in tree.find_all(nodes.Const))
    between = (node.data for node in tree.find_all(nodes.TemplateData))
    return frozenset(value for value in (*quoted, *between) if isinstance(value, str))
