"""Reads the messages of Ollama's chats in the model's own terms. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.chat_interface import Message, MessageImage, ToolCall
from server.api.shared.client_json import MAX_DEPTH, READABLE, UNREADABLE, nested_deeper, readable, refuse
from server.api.shared.message_images import RequestImages

MAX_MESSAGES = 4096
ROLES = ("system", "user", "assistant", "tool")
MESSAGES = f"a list of at most {MAX_MESSAGES} messages with a role ({', '.join(ROLES)}) and content, which is text"

MESSAGES_SCHEMA = {
    "type": "array",
    "maxItems": MAX_MESSAGES,
    "description": MESSAGES,
    "items": {
        "title": "OllamaMessage",
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string", "enum": list(ROLES)},
            "content": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "thinking": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "images": {
                "anyOf": [{"type": "array", "items": {"type": "string", "description": "base64"}}, {"type": "null"}]
            },
            "tool_calls": {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
            "tool_name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "tool_call_id": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    },
}


def read_messages(value: object) -> tuple[Message, ...]:
    """Raises `BadRequest` that names the place."""
    if not isinstance(value, list) or len(value) > MAX_MESSAGES:
        refuse("messages", MESSAGES)
    reader = _Reader()
    return tuple(reader.message(fields, f"messages[{index}]") for index, fields in enumerate(value))


def read_images(images: object, where: str, reader: RequestImages) -> tuple[MessageImage, ...]:
    """Reads a list of pictures in base64, which stand before the text."""
    if images is None:
        return ()
    if not isinstance(images, list):
        refuse(where, "a list of pictures in base64")
    return tuple(_image(image, f"{where}[{index}]", reader) for index, image in enumerate(images))


def _image(image: object, where: str, reader: RequestImages) -> MessageImage:
    in_url = isinstance(image, str) and image[:5].lower() == "data:"
    return reader.url(image, where) if in_url else reader.base64(image, where)


def optional_text(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        refuse(f"{where}.{name}", "text")
    return readable(value, f"{where}.{name}")


class _Reader:
    """Calls often have no ids in Ollama's API: then the results answer them by name, and in their order."""

    def __init__(self) -> None:
        self._images = RequestImages()
        self._n_calls = 0
        self._unanswered: list[ToolCall] = []

    def message(self, fields: object, where: str) -> Message:
        if not isinstance(fields, dict):
            refuse(where, "an object with a role and content")
        role = fields.get("role")
        if role not in ROLES:
            refuse(f"{where}.role", f"one of {', '.join(ROLES)}")
        content = optional_text(fields, "content", where) or ""
        images = read_images(fields.get("images"), f"{where}.images", self._images)
        if role == "assistant":
            calls = self._calls(fields.get("tool_calls"), f"{where}.tool_calls")
            thinking = optional_text(fields, "thinking", where) or ""
            return Message("assistant", content, thinking=thinking, tool_calls=tuple(calls), images=images)
        if role == "tool":
            name = optional_text(fields, "tool_name", where) or optional_text(fields, "name", where)
            call = self._answered(name, optional_text(fields, "tool_call_id", where))
            return Message("tool", content, name=call.name or None, tool_call_id=call.id or None, images=images)
        return Message(role, content, images=images)

    def _answered(self, name: str | None, call_id: str | None) -> ToolCall:
        for call in self._unanswered:
            if (call_id is None or call.id == call_id) and (name is None or call.name == name):
                self._unanswered.remove(call)
                return call
        return ToolCall(call_id or "", name or "", "")

    def _calls(self, calls: object, where: str) -> Sequence[ToolCall]:
        if calls is not None and not isinstance(calls, list):
            refuse(where, "a list of calls")
        read = [self._call(call, f"{where}[{index}]") for index, call in enumerate(calls or ())]
        self._unanswered += read
        return read

    def _call(self, call: object, where: str) -> ToolCall:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            refuse(where, 'an object like {"function": {"name": "NAME", "arguments": {…}}}')
        self._n_calls += 1
        name = optional_text(function, "name", f"{where}.function") or ""
        return ToolCall(
            optional_text(call, "id", where) or f"call_{self._n_calls}",
            name,
            _arguments(function.get("arguments"), f"{where}.function.arguments"),
        )


def _arguments(arguments: object, where: str) -> str:
    if isinstance(arguments, str) and not UNREADABLE.search(arguments):  # as OpenAI's clients have them
        return arguments
    if not isinstance(arguments, dict | None):
        refuse(where, "an object")
    if nested_deeper(arguments, MAX_DEPTH):
        refuse(where, f"nested at most {MAX_DEPTH} levels deep")
    text = json.dumps(arguments or {}, ensure_ascii=False)
    if UNREADABLE.search(text):
        refuse(where, f"an object of {READABLE}")
    return text
