"""The item of a response that the model is writing: its events as it grows, and the item itself. Pure functions.

An event has its type and no sequence number, which the stream gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from pipelines.chat_interface import CallDelta
from server.api.openai.reply_parts import token_logprobs
from server.api.openai.responses.items import output_id
from server.api.openai.responses.tools import Called, call_input
from server.api.wire import JsonObject
from server.service.chat_input import ChatDelta
from server.service.responses import Item

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class OpenItem(Protocol):
    def begin(self) -> Iterator[JsonObject]: ...
    def end(self, status: Status) -> Iterator[JsonObject]: ...
    def item(self, status: Status) -> Item: ...


class Place:
    """Where an item stands in the output of its response."""

    def __init__(self, kind: str, response_id: str, index: int) -> None:
        self.id = output_id(kind, response_id, index)
        self._index = index

    def event(self, kind: str, /, **fields: Any) -> JsonObject:
        return {"type": f"response.{kind}", "item_id": self.id, "output_index": self._index, **fields}

    def added(self, item: Item) -> JsonObject:
        return {"type": "response.output_item.added", "output_index": self._index, "item": item}

    def done(self, item: Item) -> JsonObject:
        return {"type": "response.output_item.done", "output_index": self._index, "item": item}


class OpenMessage:
    """What the model says."""

    def __init__(self, response_id: str, index: int) -> None:
        self._place = Place("message", response_id, index)
        self._texts: list[str] = []
        self._logprobs: list[JsonObject] = []

    def begin(self) -> Iterator[JsonObject]:
        yield self._place.added({**self.item("in_progress"), "content": []})
        yield self._place.event("content_part.added", content_index=0, part=self._part())

    def add(self, delta: ChatDelta) -> Iterator[JsonObject]:
        logprobs = token_logprobs(delta.logprobs)
        self._texts.append(delta.text)
        self._logprobs += logprobs
        yield self._place.event("output_text.delta", content_index=0, delta=delta.text, logprobs=logprobs)

    def end(self, status: Status) -> Iterator[JsonObject]:
        part = self._part()
        yield self._place.event("output_text.done", content_index=0, text=part["text"], logprobs=self._logprobs)
        yield self._place.event("content_part.done", content_index=0, part=part)
        yield self._place.done(self.item(status))

    def item(self, status: Status) -> Item:
        head = {"id": self._place.id, "type": "message", "status": status, "role": "assistant"}
        return {**head, "content": [self._part()]}

    def _part(self) -> JsonObject:
        text = "".join(self._texts)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}


class OpenReasoning:
    """What the model thinks. A client that asks for a summary gets the whole of it as the summary too."""

    def __init__(self, response_id: str, index: int, *, with_summary: bool) -> None:
        self._place = Place("reasoning", response_id, index)
        self._with_summary = with_summary
        self._texts: list[str] = []

    def begin(self) -> Iterator[JsonObject]:
        empty = {"type": "reasoning_text", "text": ""}
        yield self._place.added({**self.item("in_progress"), "summary": [], "content": []})
        yield self._place.event("content_part.added", content_index=0, part=empty)
        if self._with_summary:
            part = {"type": "summary_text", "text": ""}
            yield self._place.event("reasoning_summary_part.added", summary_index=0, part=part)

    def add(self, delta: ChatDelta) -> Iterator[JsonObject]:
        self._texts.append(delta.text)
        yield self._place.event("reasoning_text.delta", content_index=0, delta=delta.text)
        if self._with_summary:
            yield self._place.event("reasoning_summary_text.delta", summary_index=0, delta=delta.text)

    def end(self, status: Status) -> Iterator[JsonObject]:
        item = self.item(status)
        (part,) = item["content"]
        yield self._place.event("reasoning_text.done", content_index=0, text=part["text"])
        yield self._place.event("content_part.done", content_index=0, part=part)
        for summary in item["summary"]:
            yield self._place.event("reasoning_summary_text.done", summary_index=0, text=summary["text"])
            yield self._place.event("reasoning_summary_part.done", summary_index=0, part=summary)
        yield self._place.done(item)

    def item(self, status: Status) -> Item:
        text = "".join(self._texts)
        return {
            "id": self._place.id,
            "type": "reasoning",
            "status": status,
            "summary": [{"type": "summary_text", "text": text}] if self._with_summary else [],
            "content": [{"type": "reasoning_text", "text": text}],
        }


class _Call:
    """What all calls have: the id that a call shares with its output, and the arguments so far."""

    kind: ClassVar[str]

    def __init__(self, response_id: str, index: int, first: CallDelta, called: Called) -> None:
        self._place = Place(self.kind, response_id, index)
        self._call_id = first.id
        self._called = called
        self._parts: list[str] = []
        self.call_index = first.index

    @property
    def _arguments(self) -> str:
        return "".join(self._parts)

    def _item(self, status: Status, **fields: str) -> Item:
        called = {"call_id": self._call_id, "name": self._called.name}
        return {"id": self._place.id, "type": self.kind, "status": status, **called, **fields}


class OpenCall(_Call):
    """A call of a function."""

    kind = "function_call"

    def begin(self) -> Iterator[JsonObject]:
        yield self._place.added(self.item("in_progress"))

    def add(self, part: CallDelta) -> Iterator[JsonObject]:
        if part.arguments:
            self._parts.append(part.arguments)
            yield self._place.event("function_call_arguments.delta", delta=part.arguments)

    def end(self, status: Status) -> Iterator[JsonObject]:
        name = self._called.name
        yield self._place.event("function_call_arguments.done", name=name, arguments=self._arguments)
        yield self._place.done(self.item(status))

    def item(self, status: Status) -> Item:
        namespace = self._called.namespace
        return self._item(status, **({} if namespace is None else {"namespace": namespace}), arguments=self._arguments)


class OpenCustomCall(_Call):
    """A call of a tool that takes free text, which is known when the arguments around it are complete."""

    kind = "custom_tool_call"

    def begin(self) -> Iterator[JsonObject]:
        yield self._place.added(self._item("in_progress", input=""))

    def add(self, part: CallDelta) -> Iterator[JsonObject]:
        self._parts.append(part.arguments)
        yield from ()

    def end(self, status: Status) -> Iterator[JsonObject]:
        text = call_input(self._arguments)
        yield self._place.event("custom_tool_call_input.delta", delta=text)
        yield self._place.event("custom_tool_call_input.done", input=text)
        yield self._place.done(self.item(status))

    def item(self, status: Status) -> Item:
        return self._item(status, input=call_input(self._arguments))
