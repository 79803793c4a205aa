"""Tells a model of tools that its chat template does not show: as text, with calls as JSON in tags. Pure functions.

The form is the one that Hermes and Qwen models write, since many models have read it. docs/tools.md shows it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from pipelines.chat_interface import Message, ToolCall, ToolUse

SHOWN_AS_TEXT = "This model's chat template shows no tools, so that they were described in the system prompt."

_INTRODUCTION = (
    "You may call these tools. Each line has a tool's name, what it does, and the JSON schema of its arguments:"
)
_FORM = """To call a tool, write JSON with its name and its arguments between these tags:
<tool_call>
{"name": "the name", "arguments": {"the name of an argument": "its value"}}
</tool_call>
"""
_SEVERAL = "To call several tools, write several such blocks."
_ONE = "Call one tool at a time."
_RESULTS = "Write nothing behind a call: the next message has its result between <tool_response> and </tool_response>."
_OR_ANSWER = "Where no tool helps, answer without a call."
_MUST = "You must call a tool now."
_MUST_NAMED = "You must call the tool {} now."


def with_tools(messages: Sequence[Message], use: ToolUse) -> tuple[Message, ...]:
    """Return the messages with the tools described in the system prompt, and earlier calls as the model writes them."""
    described = _described(use)
    first, others = (messages[0], messages[1:]) if messages and messages[0].role == "system" else (None, messages)
    if first is None:
        system = Message("system", described)
    elif first.content.strip():
        system = replace(first, content=f"{first.content}\n\n{described}")
    else:
        system = replace(first, content=described)
    return (system, *calls_as_text(others))


def calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with calls and their results as text, in the form that the model is told to write."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    found: list[Message] = []
    for message in messages:
        if message.role == "tool":
            name = message.name or names.get(message.tool_call_id or "")
            before = "<tool_response>\n" + (f"Result of {name}:\n" if name else "")
            images = tuple(replace(image, at=image.at + len(before)) for image in message.images)
            found.append(Message("user", f"{before}{message.content}\n</tool_response>", images=images))
        elif message.tool_calls:
            text = "\n".join([*([message.content] if message.content.strip() else []), *map(_call, message.tool_calls)])
            found.append(replace(message, content=text, tool_calls=()))
        else:
            found.append(message)
    return found


def _call(call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments or "{}"}}}\n</tool_call>'


def _described(use: ToolUse) -> str:
    tools = [
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters}, ensure_ascii=False
        )
        for tool in use.tools
    ]
    if use.choice == "required":
        last = _MUST if use.name is None else _MUST_NAMED.format(use.name)
    else:
        last = _OR_ANSWER
    number = _SEVERAL if use.parallel else _ONE
    return "\n".join([_INTRODUCTION, "<tools>", *tools, "</tools>", "", f"{_FORM}{number} {_RESULTS} {last}"])
