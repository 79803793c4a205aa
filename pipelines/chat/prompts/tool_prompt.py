"""Shows a model the tools of a request: by its own chat template, or by a text where that shows none. Any thread.

Names, descriptions and schemas are clients' text. What they spell out of special tokens, or of the placeholders of a
skeleton, is broken by marks (see `special_tokens`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pipelines.chat.message_forms import Form, turns
from pipelines.chat.prompts.skeleton import PLACEHOLDERS
from pipelines.chat.prompts.special_tokens import SpecialTokens, broken, mark_for
from pipelines.chat.template_rendering import ChatTemplate, TemplateFailed
from pipelines.chat_interface import Message, PromptRefused, Tool, ToolUse

ALIASES = ("xml_tools", "custom_tools", "functions")  # other names of the variable: of SmolLM3, Llama and a few more
_PROBE = "probe_5f3c"  # the name of a tool that no template mentions by itself
_NO_ARGUMENTS = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class NativeTools:
    """What a chat template that shows tools needs to show these."""

    template: ChatTemplate
    variables: Mapping[str, object]
    names: Sequence[str]
    mark: str  # breaks what the tools spell out of special tokens

    def are_in(self, skeleton: str) -> bool:
        text = skeleton.replace(self.mark, "")
        return all(name in text for name in self.names)


def native_tools(
    tokenizer: Any, specials: SpecialTokens, messages: Sequence[Message], use: ToolUse
) -> NativeTools | None:
    """Return None when the model's chat template shows no tools."""
    try:
        template = ChatTemplate(tokenizer, for_tools=True)
    except PromptRefused:
        return None
    names = _variables(template)
    if not names:
        return None
    tools = [shown_as(tool) for tool in use.tools]
    texts = [json.dumps(tools, ensure_ascii=False)]
    for message in messages:
        texts += [message.content, message.thinking, *(call.arguments for call in message.tool_calls)]
    mark = mark_for(texts)
    pattern = re.compile(f"{specials.texts.pattern}|{PLACEHOLDERS.pattern}")
    value = _with_texts_broken(tools, pattern, mark)
    return NativeTools(template, dict.fromkeys(names, value), [tool.name for tool in use.tools], mark)


def shown_as(tool: Tool) -> dict[str, object]:
    """Return the tool as chat templates read it: in the form of OpenAI's API."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters or _NO_ARGUMENTS}
    return {"type": "function", "function": function}


def _variables(template: ChatTemplate) -> Sequence[str]:
    """Return the variables by which the template shows tools; none if it does not."""
    probe = [shown_as(Tool(_PROBE, "Test.", {"type": "object", "properties": {"a": {"type": "string"}}}))]
    known = [name for name in ALIASES if name in template.variables]
    for names in (["tools"], known) if known else (["tools"],):
        for parts, has_system in product((False, True), (True, False)):
            messages = [Message("system", "Hi")] * has_system + [Message("user", "Hi")]
            try:
                text = template.render(
                    turns(messages, Form(parts=parts)), dict.fromkeys(names, probe), with_opening=True
                )
            except TemplateFailed:
                continue
            if _PROBE in text:
                return names
    return ()


def _with_texts_broken(value: object, pattern: re.Pattern[str], mark: str) -> object:
    if isinstance(value, str):
        return broken(value, pattern, mark)
    if isinstance(value, Mapping):
        return {broken(str(key), pattern, mark): _with_texts_broken(each, pattern, mark) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts_broken(each, pattern, mark) for each in value]
    return value
