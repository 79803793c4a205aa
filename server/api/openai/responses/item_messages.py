"""Makes messages for a model of the items of a conversation. Pure functions.

What an assistant does in one turn is one message of a chat template, but several items: what it thought, what it said,
and its calls of tools. Items in a row become one message until a second thought or text follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.chat_interface import Message, ToolCall
from server.api.openai.responses.tools import shown_name
from server.api.shared.message_images import ContentParts, RequestImages
from server.service.responses import Item


@dataclass(slots=True)
class _Turn:
    """What an assistant thinks, says and calls in one turn. It is joined once: it may have thousands of items."""

    thinking: str = ""
    contents: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def takes(self, said: Message) -> bool:
        """Whether this can be a part of the turn."""
        if said.thinking:
            return not (self.thinking or self.contents or self.calls)
        return not (said.content and self.contents and not self.calls)

    def add(self, said: Message) -> None:
        self.thinking = self.thinking or said.thinking
        self.contents += [said.content] if said.content else []
        self.calls += said.tool_calls

    def message(self) -> Message:
        return Message("assistant", "\n".join(self.contents), thinking=self.thinking, tool_calls=tuple(self.calls))


def messages_of(items: Iterable[tuple[Item, str]]) -> list[Message]:
    """items: each with its place in the request, for errors about pictures. Raises `BadRequest`."""
    made: list[Message | _Turn] = []
    names: dict[str, str] = {}  # id of a call → name of the tool
    images = RequestImages("input")
    for item, place in items:
        kind = item["type"]
        if kind in ("function_call_output", "custom_tool_call_output"):
            content, call_id = _content(item["output"], f"{place}.output", images), item["call_id"]
            pictures = tuple(content.images)
            made.append(Message("tool", content.text, name=names.get(call_id), tool_call_id=call_id, images=pictures))
        elif kind == "message" and item["role"] != "assistant":
            content = _content(item["content"], f"{place}.content", images)
            of_user = item["role"] == "user"
            made.append(Message("user" if of_user else "system", content.text, images=tuple(content.images)))
        else:
            said = _of_assistant(item)
            turn = made[-1] if made else None
            if not isinstance(turn, _Turn) or not turn.takes(said):
                turn = _Turn()
                made.append(turn)
            turn.add(said)
            names.update((call.id, call.name) for call in said.tool_calls)
    return [each.message() if isinstance(each, _Turn) else each for each in made]


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
