"""The body of a chat completion, and its conversion to the service's own types. Pure functions.

A field here is done. Those that are taken or refused are in `chat_fields`, the reading of messages is in
`message_schema`. A field's `description` completes the sentence "FIELD must be …".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from pipelines.chat_interface import Message, PromptOptions, ToolUse
from server.api.openai.chat_fields import CHAT
from server.api.openai.chat_thinking import ThinkingFields, ThinkingWish, read_thinking
from server.api.openai.chat_tools import ToolFields, read_tool_use
from server.api.openai.message_schema import MESSAGES, MESSAGES_SCHEMA, read_messages
from server.api.openai.output_format import OutputFields, read_output_format
from server.api.openai.sampling_fields import LIMIT, SamplingFields, StreamFields, read_sampling
from server.api.schemas import read_body
from server.api.shared.client_json import MAX_DEPTH, nested_deeper
from server.api.shared.field_rules import sort_out
from server.api.shared.field_types import Lenient, Limit, Whole
from server.api.thinking import SWITCHED_ON
from server.errors import BadRequest
from server.service.chat_input import ChatInput


class MessageFields(Lenient):
    messages: Annotated[list[Any], WithJsonSchema(MESSAGES_SCHEMA)] = Field(description=MESSAGES)


class ReplyFields(Lenient):
    max_tokens: Limit | None = Field(None, description=LIMIT)
    max_completion_tokens: Limit | None = Field(None, description=LIMIT)
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = Field(
        None, description="a whole number from 0 to 20, together with logprobs: true"
    )
    add_generation_prompt: bool | None = Field(None, description="true or false")
    continue_final_message: bool | None = Field(
        None, description="true or false: whether the reply goes on with the last message, which is the assistant's"
    )


class ChatCompletion(
    ThinkingFields, ToolFields, OutputFields, ReplyFields, SamplingFields, StreamFields, MessageFields
):
    """All fields that are done."""  # pydantic lists those of the last base class first


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A chat completion that was read: what is asked, and the form of the reply."""

    chat_input: ChatInput
    streamed: bool
    with_usage: bool  # in a stream
    with_thinking: bool
    calls_as_functions: bool = False  # the reply has its call in the older field function_call

    @property
    def with_logprobs(self) -> bool:
        return self.chat_input.n_logprobs is not None


def read_chat(raw: Mapping[str, Any]) -> ChatCall:
    """Raises `BadRequest` with the field at fault and what it must be."""
    fields, warnings = sort_out(raw, ChatCompletion.model_fields, CHAT)
    body = read_body(ChatCompletion, fields)
    messages = read_messages(body.messages)
    wish = read_thinking(body)
    tools = read_tool_use(body)
    warnings += tools.warnings
    warnings += body.stream_warnings
    max_tokens = _max_tokens(body, warnings)
    chat_input = ChatInput(
        messages=messages,
        stored=False,
        model=body.model or None,
        prompt_options=_prompt_options(body, wish, tools.use, messages),
        n_logprobs=_n_logprobs(body),
        max_thinking_tokens=wish.max_tokens,
        warnings=tuple(warnings),
        **read_sampling(body, max_tokens),
    )
    return ChatCall(
        chat_input,
        streamed=bool(body.stream),
        with_usage=body.with_usage,
        with_thinking=wish.shown,
        calls_as_functions=tools.as_functions,
    )


def _max_tokens(body: ChatCompletion, warnings: list[str]) -> int | None:
    given = {limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None and limit > 0}
    if len(given) > 1:
        warnings.append("max_tokens and max_completion_tokens differ: the smaller one holds.")
    return min(given, default=None)


def _n_logprobs(body: ChatCompletion) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise BadRequest("top_logprobs requires logprobs: true.", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _prompt_options(
    body: ChatCompletion, wish: ThinkingWish, tool_use: ToolUse, messages: Sequence[Message]
) -> PromptOptions:
    variables = dict(body.chat_template_kwargs or {})
    if nested_deeper(variables, MAX_DEPTH):
        raise BadRequest(
            f"chat_template_kwargs must be nested at most {MAX_DEPTH} levels deep.", param="chat_template_kwargs"
        )
    if wish.on:
        variables = {**SWITCHED_ON, **variables}
    return PromptOptions(
        effort=wish.effort,
        template_variables=variables,
        continues=_continues(body, messages),
        tool_use=tool_use,
        grammar=read_output_format(body),
    )


def _continues(body: ChatCompletion, messages: Sequence[Message]) -> bool | None:
    """Whether the reply goes on with the last message. None: as usual, which is when that is the assistant's."""
    begins, goes_on = body.add_generation_prompt, body.continue_final_message
    if begins and goes_on:
        raise BadRequest(
            "continue_final_message and add_generation_prompt exclude each other: send one of them as true.",
            param="continue_final_message",
        )
    if (goes_on or begins is False) and messages[-1].role != "assistant":
        field = "continue_final_message: true" if goes_on else "add_generation_prompt: false"
        raise BadRequest(f"{field} requires that the last message is the assistant's.", param=field.split(":")[0])
    return True if goes_on else False if begins or goes_on is False else None
