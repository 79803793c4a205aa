"""The JSON of a message that a model replied, and its blocks. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.chat_interface import ToolCall
from pipelines.interface import FinishReason
from server.api.anthropic.schema import MessageCall
from server.api.anthropic.signature import signature
from server.api.shared.call_arguments import arguments_object
from server.api.wire import JsonObject
from server.service.chat_input import ChatChoice, ChatReply

STOP_REASONS: Mapping[FinishReason, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def message(head: JsonObject, reply: ChatReply, call: MessageCall) -> JsonObject:
    """head: id and model."""
    (choice,) = reply.choices
    return {
        **empty_message(head, reply.prompt_tokens),
        "content": list(_content(choice, call)),
        **ending(choice),
        "usage": usage(reply),
        **warnings(reply),
    }


def empty_message(head: JsonObject, prompt_tokens: int) -> JsonObject:
    """A message before anything of it is there, as a stream begins."""
    return {
        "id": head["id"],
        "type": "message",
        "role": "assistant",
        "model": head["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(prompt_tokens, 0),
    }


def ending(choice: ChatChoice) -> JsonObject:
    if choice.stop_text is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_text}
    return {"stop_reason": STOP_REASONS[choice.finish_reason], "stop_sequence": None}


def usage(reply: ChatReply) -> JsonObject:
    details = {"output_tokens_details": {"thinking_tokens": reply.thinking_tokens}} if reply.thinking_tokens else {}
    return {**_usage(reply.prompt_tokens, reply.completion_tokens), **details}


def warnings(reply: ChatReply) -> JsonObject:
    return {"warnings": list(reply.warnings)} if reply.warnings else {}


def call_id(id: str) -> str:
    """The id of a call as Anthropic's clients know them. They send it back with the result."""
    return f"toolu_{id.removeprefix('call_')}"


def _usage(prompt_tokens: int, completion_tokens: int) -> JsonObject:
    return {
        "input_tokens": prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": completion_tokens,
    }


def _content(choice: ChatChoice, call: MessageCall) -> Iterator[JsonObject]:
    if choice.thinking and call.shows_thinking:
        yield {"type": "thinking", "thinking": choice.thinking, "signature": signature()}
    elif choice.thinking:
        yield {"type": "thinking", "thinking": "", "signature": signature(choice.thinking)}
    if choice.text:
        yield {"type": "text", "text": choice.text}
    yield from map(_tool_use, choice.tool_calls)


def _tool_use(call: ToolCall) -> JsonObject:
    """Arguments that are no JSON object, as those of a reply that was cut off, stand beside an empty input."""
    block = {"type": "tool_use", "id": call_id(call.id), "name": call.name}
    arguments = arguments_object(call.arguments)
    return (
        {**block, "input": {}, "partial_json": call.arguments} if arguments is None else {**block, "input": arguments}
    )
