"""Reads the messages of Anthropic's API, and its system prompt, in the model's own terms. Pure functions.

Results of tools are messages of their own here. A message of Anthropic's user can hold several, and text behind them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.chat_interface import Message, ToolCall
from server.api.anthropic.content import READ_AS_CONTENT, ContentReader, blocks, refuse_block, text_at
from server.api.anthropic.signature import signed_thinking
from server.api.shared.client_json import MAX_DEPTH, READABLE, UNREADABLE, nested_deeper, refuse
from server.api.shared.message_images import ContentParts

MAX_MESSAGES = 4096
ROLES = ("user", "assistant", "system")
MESSAGES = f"a list of 1 to {MAX_MESSAGES} messages with a role ({', '.join(ROLES)}) and content"
SYSTEM = "text, or a list of text blocks"
OF_USER = (*READ_AS_CONTENT, "tool_result")
OF_ASSISTANT = ("text", "thinking", "redacted_thinking", "tool_use")
IN_RESULT = (*READ_AS_CONTENT, "tool_reference")
TOOL_CHANGES = ("tool_addition", "tool_removal")  # within a message of the system
# Claude Code's first block of the system prompt. It says nothing to a model, and a part of it differs in every request,
# so that no cached prompt would begin like the next one.
BILLING = "x-anthropic-billing-header:"

BLOCK_SCHEMA = {
    "title": "ContentBlock",
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"type": "string", "enum": sorted({*OF_USER, *OF_ASSISTANT})}},
}
TEXT_BLOCK_SCHEMA = {
    "title": "TextBlock",
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"type": "string", "enum": ["text"]}, "text": {"type": "string"}},
}
SYSTEM_SCHEMA = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_BLOCK_SCHEMA}],
    "description": SYSTEM,
}
MESSAGES_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_MESSAGES,
    "description": MESSAGES,
    "items": {
        "title": "AnthropicMessage",
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"type": "string", "enum": list(ROLES)},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": BLOCK_SCHEMA}]},
        },
    },
}


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...]
    tool_changes: Mapping[str, bool]  # by the name of a tool: whether it was added, or removed


def read_conversation(system: object, messages: object) -> Conversation:
    """Raises `BadRequest`."""
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        refuse("messages", MESSAGES)
    from_user = [isinstance(message, dict) and message.get("role") == "user" for message in messages]
    reader = _Reader(last_of_user=max((index for index, is_users in enumerate(from_user) if is_users), default=-1))
    first = [] if system is None else list(reader.system(system, "system"))
    rest = [read for index, message in enumerate(messages) for read in reader.message(message, index)]
    return Conversation((*first, *rest), reader.tool_changes)


class _Reader:
    def __init__(self, last_of_user: int) -> None:
        """last_of_user: index of the user's last message."""
        self._last_of_user = last_of_user
        self._content = ContentReader()
        self._tools: dict[str, str] = {}  # id of a call → name of the tool
        self.tool_changes: dict[str, bool] = {}

    def system(self, content: object, where: str) -> Iterator[Message]:
        parts = ContentParts()
        for block, place in blocks(content, where):
            if (kind := block.get("type")) in TOOL_CHANGES:
                self._change_tool(block.get("tool"), f"{place}.tool", offered=kind == "tool_addition")
                continue
            if kind != "text":
                refuse(f"{place}.type", f"one of text, {', '.join(TOOL_CHANGES)}")
            text = text_at(block, "text", place)
            if text.startswith(BILLING):
                text = text.partition("\n")[2]
            if text:
                parts.add_text(text)
        if parts.text:
            yield Message("system", parts.text)

    def _change_tool(self, tool: object, where: str, *, offered: bool) -> None:
        if not isinstance(tool, dict) or tool.get("type") != "tool_reference":
            refuse(where, 'an object like {"type": "tool_reference", "name": "NAME"}')
        self.tool_changes[text_at(tool, "name", where)] = offered

    def message(self, message: object, index: int) -> Iterator[Message]:
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            refuse(where, "an object with a role and content")
        content, place = message.get("content"), f"{where}.content"
        match message.get("role"):
            case "user":
                yield from self._user(content, place)
            case "assistant":
                yield self._assistant(content, place)
            case "system":
                if message.get("output_config"):
                    refuse(f"{where}.output_config", "left out: it is read of the whole request alone")
                system = list(self.system(content, place))
                if message.get("clear_at") != "next_user_message" or index > self._last_of_user:
                    yield from system
            case _:
                refuse(f"{where}.role", f"one of {', '.join(ROLES)}")

    def _user(self, content: object, where: str) -> Iterator[Message]:
        parts, is_empty = ContentParts(), True
        for block, place in blocks(content, where):
            if block.get("type") != "tool_result":
                if not self._content.add(parts, block, place):
                    refuse_block(block, place)
                is_empty = False
                continue
            if not is_empty:
                yield Message("user", parts.text, images=tuple(parts.images))
                parts, is_empty = ContentParts(), True
            yield self._result(block, place)
        if not is_empty or content == []:
            yield Message("user", parts.text, images=tuple(parts.images))

    def _result(self, block: Mapping[str, Any], where: str) -> Message:
        call_id = text_at(block, "tool_use_id", where)
        parts = ContentParts()
        if block.get("is_error"):
            parts.add_text("Error:")
        content = block.get("content")
        for inner, place in () if content is None else blocks(content, f"{where}.content"):
            if inner.get("type") == "tool_reference":
                name = text_at(inner, "tool_name", place)
                self.tool_changes[name] = True
                parts.add_text(name)
            elif not self._content.add(parts, inner, place):
                refuse_block(inner, place)
        return Message(
            "tool", parts.text, name=self._tools.get(call_id), tool_call_id=call_id, images=tuple(parts.images)
        )

    def _assistant(self, content: object, where: str) -> Message:
        parts, thoughts, calls = ContentParts(), list[str](), list[ToolCall]()
        for block, place in blocks(content, where):
            match block.get("type"):
                case "text":
                    parts.add_text(text_at(block, "text", place))
                case "thinking":
                    thoughts.append(text_at(block, "thinking", place) or signed_thinking(block.get("signature")))
                case "redacted_thinking":
                    pass  # another service has encrypted it
                case "tool_use":
                    calls.append(_call(block, place))
                case _:
                    refuse_block(block, place)
        self._tools.update((call.id, call.name) for call in calls)
        thinking = "\n".join(filter(None, thoughts))
        return Message("assistant", parts.text, thinking=thinking, tool_calls=tuple(calls))


def _call(block: Mapping[str, Any], where: str) -> ToolCall:
    arguments, place = block.get("input"), f"{where}.input"
    if not isinstance(arguments, dict):
        refuse(place, "an object")
    if nested_deeper(arguments, MAX_DEPTH):
        refuse(place, f"nested at most {MAX_DEPTH} levels deep")
    text = json.dumps(arguments, ensure_ascii=False)
    if UNREADABLE.search(text):
        refuse(place, f"an object of {READABLE}")
    return ToolCall(text_at(block, "id", where), text_at(block, "name", where), text)
