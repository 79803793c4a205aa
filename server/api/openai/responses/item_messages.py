"""Makes messages for a model of the items of a conversation. Pure functions.

What an assistant does in one turn is one message of a chat template, but several items: what it thought, what it said,
and its calls of tools. Items in a row become one message until a second thought or text follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from pipelines.chat_interface import Message, ToolCall
from server.api.message_images import ContentParts, RequestImages
from server.api.openai.responses.tools import shown_name
from server.service.responses import Item


def messages_of(items: Iterable[tuple[Item, str]]) -> list[Message]:
    """items: each with its place in the request, for errors about pictures. Raises `BadRequest`."""
    messages: list[Message] = []
    names: dict[str, str] = {}  # id of a call → name of the tool
    images = RequestImages("input")
    for item, place in items:
        kind = item["type"]
        if kind in ("function_call_output", "custom_tool_call_output"):
            content, call_id = _content(item["output"], f"{place}.output", images), item["call_id"]
            pictures = tuple(content.images)
            messages.append(
                Message("tool", content.text, name=names.get(call_id), tool_call_id=call_id, images=pictures)
            )
        elif kind == "message" and item["role"] != "assistant":
            content = _content(item["content"], f"{place}.content", images)
            of_user = item["role"] == "user"
            messages.append(Message("user" if of_user else "system", content.text, images=tuple(content.images)))
        else:
            _add_to_turn(messages, _of_assistant(item))
            names.update((call.id, call.name) for call in messages[-1].tool_calls)
    return messages


def _of_assistant(item: Item) -> Message:
    match item["type"]:
        case "reasoning":
            parts = item["content"] or item["summary"]
            return Message("assistant", "", thinking="\n".join(part["text"] for part in parts))
        case "function_call":
            name = shown_name(item["name"], item.get("namespace"))
            return Message("assistant", "", tool_calls=(ToolCall(item["call_id"], name, item["arguments"]),))
        case "custom_tool_call":
            arguments = json.dumps({"input": item["input"]}, ensure_ascii=False)
            return Message("assistant", "", tool_calls=(ToolCall(item["call_id"], item["name"], arguments),))
    return Message("assistant", _content(item["content"], "", RequestImages("input")).text)


def _add_to_turn(messages: list[Message], said: Message) -> None:
    """Adds what an assistant thought, said or called to its last message, or begins a new one."""
    last = messages[-1] if messages and messages[-1].role == "assistant" else None
    if last is None or _begins_turn(said, last):
        messages.append(said)
    else:
        messages[-1] = replace(
            last,
            content="\n".join(filter(None, (last.content, said.content))),
            thinking=last.thinking or said.thinking,
            tool_calls=(*last.tool_calls, *said.tool_calls),
        )


def _begins_turn(said: Message, last: Message) -> bool:
    """Whether a part of an assistant's turn cannot belong to the message before it."""
    if said.thinking:
        return bool(last.thinking or last.content or last.tool_calls)
    return bool(said.content and last.content and not last.tool_calls)


def _content(content: str | list[Item], place: str, images: RequestImages) -> ContentParts:
    parts = ContentParts()
    if isinstance(content, str):
        parts.add_text(content)
        return parts
    for index, part in enumerate(content):
        if part["type"] == "input_image":
            parts.add_image(images.openai_part(part, f"{place}[{index}]"))
        else:
            parts.add_text(part["text"])
    return parts
