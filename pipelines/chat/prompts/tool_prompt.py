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

from pipelines.chat.prompts.rendering import Rendering
from pipelines.chat.prompts.skeleton import PLACEHOLDERS
from pipelines.chat.prompts.special_tokens import SpecialTokens, broken, mark_for
from pipelines.chat.templates.chat_template import ChatTemplate, TemplateFailed
from pipelines.chat.templates.message_forms import SYSTEMS_MOVED, Form, Turn, turns
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
    tools = [shown_as(tool) for tool in use.tools]
    mark = mark_for([json.dumps(tools, ensure_ascii=False), *_texts(messages)])
    pattern = re.compile(f"{specials.texts.pattern}|{PLACEHOLDERS.pattern}")
    native = _native(tokenizer, _with_texts_broken(tools, pattern, mark))
    if native is not None:
        template, variables = native
        try:
            found = render(template, messages, variables, mark)
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


class _ToolsInSystem(ChatTemplate):
    """A template that reads tools from the system message, as that of Phi-4-mini."""

    def __init__(self, tokenizer: Any, tools: Sequence[Mapping[str, object]]) -> None:
        super().__init__(tokenizer, for_tools=True)
        self._tools = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)

    def render(self, turns: Sequence[Turn], variables: Mapping[str, object], *, with_opening: bool) -> str:
        first, others = (turns[0], turns[1:]) if turns and turns[0]["role"] == "system" else (None, turns)
        system = {**(first or {"role": "system", "content": ""}), "tools": self._tools}
        return super().render([system, *others], variables, with_opening=with_opening)


def _native(tokenizer: Any, tools: Sequence[Mapping[str, object]]) -> tuple[ChatTemplate, Mapping[str, object]] | None:
    """Return the chat template and the variables by which it shows tools; None if it does not."""
    template = ChatTemplate(tokenizer, for_tools=True)
    probe = [shown_as(Tool(_PROBE, "Test.", {"type": "object", "properties": {"a": {"type": "string"}}}))]
    for names in (("tools",), tuple(name for name in ALIASES if name in template.variables)):
        if names and _shows_probe(template, dict.fromkeys(names, probe)):
            return template, dict.fromkeys(names, tools)
    if "tools" in template.constants and _shows_probe(_ToolsInSystem(tokenizer, probe), {}):
        return _ToolsInSystem(tokenizer, tools), {}
    return None


def _shows_probe(template: ChatTemplate, variables: Mapping[str, object]) -> bool:
    for parts, has_system in product((False, True), (True, False)):
        messages = [Message("system", "Hi")] * has_system + [Message("user", "Hi")]
        try:
            if _PROBE in template.render(turns(messages, Form(parts=parts)), variables, with_opening=True):
                return True
        except TemplateFailed:
            continue
    return False


def _with_texts_broken(value: Any, pattern: re.Pattern[str], mark: str) -> Any:
    if isinstance(value, str):
        return broken(value, pattern, mark)
    if isinstance(value, Mapping):
        return {broken(str(key), pattern, mark): _with_texts_broken(each, pattern, mark) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts_broken(each, pattern, mark) for each in value]
    return value
