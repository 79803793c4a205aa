"""Shows a model the tools of a request: by its own chat template, or by a text where that shows none. Any thread.

No torch.

Names, descriptions and schemas are clients' text. What they spell out of special tokens, or of the placeholders of a
skeleton, is broken by marks (see `special_tokens`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeAlias

from pipelines.chat.message_forms import SYSTEMS_MOVED, Form, turns
from pipelines.chat.prompts.rendering import Rendering
from pipelines.chat.prompts.skeleton import PLACEHOLDERS
from pipelines.chat.prompts.special_tokens import SpecialTokens, broken, mark_for
from pipelines.chat.template_rendering import ChatTemplate, TemplateFailed
from pipelines.chat.tools.formats import Family, family_of, generic_family
from pipelines.chat.tools.generic_prompt import SHOWN_AS_TEXT, with_tools
from pipelines.chat_interface import Message, PromptRefused, Tool, ToolUse

ALIASES = ("xml_tools", "custom_tools", "functions")  # other names of the variable: of SmolLM3, Llama and a few more
_PROBE = "probe_5f3c"  # the name of a tool that no template mentions by itself
_NO_ARGUMENTS = {"type": "object", "properties": {}}


# Renders these messages by this template, with variables and a mark that breaks special tokens in them.
Render: TypeAlias = Callable[[ChatTemplate, Sequence[Message], Mapping[str, object], str], Rendering]


@dataclass(frozen=True, slots=True)
class WithTools:
    rendering: Rendering
    template: ChatTemplate
    family: Family  # how the model writes calls


def rendered_with_tools(
    tokenizer: Any, specials: SpecialTokens, messages: Sequence[Message], use: ToolUse, render: Render
) -> WithTools:
    """Raises `PromptRefused` when the template takes these messages in no form."""
    template = ChatTemplate(tokenizer, for_tools=True)
    names = _variables(template)
    if names:
        tools = [shown_as(tool) for tool in use.tools]
        mark = mark_for([json.dumps(tools, ensure_ascii=False), *_texts(messages)])
        pattern = re.compile(f"{specials.texts.pattern}|{PLACEHOLDERS.pattern}")
        value = _with_texts_broken(tools, pattern, mark)
        try:
            found = render(template, messages, dict.fromkeys(names, value), mark)
        except PromptRefused:  # the generic text may do better; if not, it says what is wrong with the messages
            found = None
        if found is not None:
            text = found.skeleton.replace(mark, "")
            if all(tool.name in text for tool in use.tools):
                return WithTools(found, template, family_of(tokenizer, template.text))
    template = ChatTemplate(tokenizer)
    found = render(template, with_tools(messages, use), {}, "")
    warnings = found.warnings
    if not any(message.role == "system" for message in messages):  # it is the tools' own
        warnings = tuple(warning for warning in warnings if not warning.startswith(SYSTEMS_MOVED))
    return WithTools(
        replace(found, warnings=(*warnings, SHOWN_AS_TEXT)), template, generic_family(tokenizer, template.text)
    )


def _texts(messages: Sequence[Message]) -> list[str]:
    return [
        text
        for message in messages
        for text in (message.content, message.thinking, message.name or "", *(_call_texts(message)))
    ]


def _call_texts(message: Message) -> list[str]:
    return [text for call in message.tool_calls for text in (call.name, call.arguments)]


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
