"""Reads the messages of a chat completion as clients write them. Pure functions.

Clients send back what their own library made of earlier replies, so that unknown and null fields are taken. A message
that cannot be read is a 400 that names the place, such as messages[2].content, and what is expected there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NoReturn, TypeAlias

from pipelines.chat_interface import Message, MessageImage, ToolCall
from server.api.shared.client_json import SHOWN_TYPE, arguments_text, readable_text, refuse
from server.api.shared.message_images import ContentParts, RequestImages
from server.errors import BadRequest

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

MAX_MESSAGES = 4096
ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
    "function": "tool",
}  # fmt: skip
TEXT_PARTS: Mapping[str, str] = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
THINKING_PARTS = ("thinking", "reasoning")
HIDDEN_PARTS = ("redacted_thinking",)  # thinking that another service has encrypted
IMAGE_PARTS = ("image_url", "input_image")
IMAGE_ROLES = ("user", "tool")
# Where the libraries keep what a model thought before its reply; the first one with text is read.
THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")
THINKING_LISTS = ("reasoning_details", "thinking_blocks")
MISSING = object()

CONTENT = "text or a list of parts"
MESSAGES = f"a list of 1 to {MAX_MESSAGES} messages with a role ({', '.join(ROLES)}) and content: {CONTENT}"

# For the OpenAPI document. A part of another type is refused by its name; unknown fields are taken everywhere.
PART_SCHEMA = {
    "title": "ContentPart",
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": [*TEXT_PARTS, *IMAGE_PARTS, *THINKING_PARTS, *HIDDEN_PARTS]},
        "text": {"description": "text"},
        "image_url": {"description": "of a picture: its URL, or an object with url and detail (auto, low, high)"},
    },
}
MESSAGES_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_MESSAGES,
    "description": MESSAGES,
    "items": {
        "title": "ChatMessage",
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string", "enum": list(ROLES)},
            "content": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"anyOf": [{"type": "string"}, PART_SCHEMA]}},
                    {"type": "null"},
                ]
            },
            "name": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "tool_calls": {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
            "tool_call_id": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "reasoning_content": {"description": "what an assistant's message was preceded by"},
        },
    },
}


def read_messages(value: object) -> tuple[Message, ...]:
    """Returns the messages in the model's own terms. Raises `BadRequest`."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        refuse("messages", MESSAGES)
    tools: dict[str, str] = {}  # id of a call → name of the tool
    images = RequestImages()
    messages = []
    for index, fields in enumerate(value):
        message = _message(fields, f"messages[{index}]", tools, images)
        tools.update((call.id, call.name) for call in message.tool_calls)
        messages.append(message)
    return tuple(messages)


def _message(fields: Any, where: str, tools: Mapping[str, str], images: RequestImages) -> Message:
    if not isinstance(fields, dict):
        refuse(where, "an object with a role and content")
    role = ROLES.get(fields["role"]) if isinstance(fields.get("role"), str) else None
    if role is None:
        refuse(f"{where}.role", f"one of {', '.join(ROLES)}")
    if "content" not in fields and role in ("system", "user"):
        raise BadRequest(f"{where}.content is required: {CONTENT}.", param="messages")
    text, pictures, thoughts = _content(fields.get("content"), where, role, images)
    name = _optional_text(fields, "name", where)
    if role == "tool":
        call_id = _optional_text(fields, "tool_call_id", where)
        name = name or tools.get(call_id or "")
        return Message("tool", text, name=name, tool_call_id=call_id, images=pictures)
    if role != "assistant":
        return Message(role, text, name=name, images=pictures)
    refusal = fields.get("refusal")
    return Message(
        "assistant",
        text or (readable_text(refusal, f"{where}.refusal") if isinstance(refusal, str) else ""),
        thinking=_thinking(fields, where) or thoughts,
        name=name,
        tool_calls=tuple(_tool_calls(fields, where)),
    )


def _content(
    content: object, where: str, role: Role, images: RequestImages
) -> tuple[str, tuple[MessageImage, ...], str]:
    """Returns text, pictures and thinking. Several texts become lines of their own, as other servers join them."""
    if content is None:
        return "", (), ""
    if isinstance(content, str):
        return readable_text(content, f"{where}.content"), (), ""
    if not isinstance(content, list):
        refuse(f"{where}.content", CONTENT)
    parts = ContentParts()
    thoughts: list[str] = []
    for index, part in enumerate(content):
        place = f"{where}.content[{index}]"
        if isinstance(part, str):
            parts.add_text(readable_text(part, place))
            continue
        if not isinstance(part, dict):
            refuse(place, 'a part like {"type": "text", "text": "…"}')
        kind = part.get("type", "text")
        if isinstance(kind, str) and kind in TEXT_PARTS:
            field = TEXT_PARTS[kind]
            parts.add_text(readable_text(part.get(field, MISSING), f"{place}.{field}"))
        elif role in IMAGE_ROLES and kind in IMAGE_PARTS:
            parts.add_image(images.openai_part(part, place))
        elif role == "assistant" and kind in (*THINKING_PARTS, *HIDDEN_PARTS):
            thoughts += _thoughts(part, place)
        else:
            _refuse_part(kind, place)
    return parts.text, tuple(parts.images), "\n".join(thoughts)


def _refuse_part(kind: object, place: str) -> NoReturn:
    if not isinstance(kind, str):
        refuse(f"{place}.type", f"one of {', '.join(TEXT_PARTS)}")
    shown = f" of the type {kind}" if SHOWN_TYPE.fullmatch(kind) else ""
    raise BadRequest(
        f"{place}: a part{shown} is not supported here. Send parts of the type text; messages of the user and of tools "
        "may also have parts of the type image_url.",
        param="messages",
    )


def _thinking(fields: Mapping[str, Any], where: str) -> str:
    for field in THINKING_FIELDS:
        if isinstance(thought := fields.get(field), str) and thought:
            return readable_text(thought, f"{where}.{field}")
    for field in THINKING_LISTS:
        if isinstance(blocks := fields.get(field), list):
            thoughts = [t for block in blocks if isinstance(block, dict) for t in _thoughts(block, f"{where}.{field}")]
            if thoughts:
                return "\n".join(thoughts)
    return ""


def _thoughts(block: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yields the texts of one part or block of thinking, wherever its library keeps them; an encrypted one has none."""
    for field in ("thinking", "reasoning", "text", "summary"):
        inner = block.get(field)
        for thought in inner if isinstance(inner, list) else [inner]:
            text = thought.get("text") if isinstance(thought, dict) else thought
            if isinstance(text, str) and text:
                yield readable_text(text, f"{where}.{field}")


def _tool_calls(fields: Mapping[str, Any], where: str) -> Iterator[ToolCall]:
    calls = fields.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        refuse(f"{where}.tool_calls", "a list of calls")
    for index, call in enumerate(calls or ()):
        place = f"{where}.tool_calls[{index}]"
        if not isinstance(call, dict):
            refuse(place, "an object with an id and a function")
        call_id = _optional_text(call, "id", place) or ""
        if isinstance(custom := call.get("custom"), dict):
            named = _called(call_id, custom, f"{place}.custom")
            given = {"input": custom.get("input")}
            yield ToolCall(call_id, named.name, arguments_text(given, f"{place}.custom.input"))
        else:
            yield _called(call_id, call.get("function"), f"{place}.function")
    if (legacy := fields.get("function_call")) is not None and not calls:
        yield _called("", legacy, f"{where}.function_call")


def _called(call_id: str, function: object, where: str) -> ToolCall:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        refuse(where, "an object with a name and arguments")
    return ToolCall(
        call_id,
        readable_text(function["name"], f"{where}.name"),
        arguments_text(function.get("arguments"), f"{where}.arguments"),
    )


def _optional_text(fields: Mapping[str, Any], field: str, where: str) -> str | None:
    value = fields.get(field)
    return None if value is None else readable_text(value, f"{where}.{field}")
