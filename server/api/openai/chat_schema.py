"""The body of a chat completion, and its conversion to the service's own types. Pure functions.

A field here is done. Those that are taken or refused are in `chat_fields`, the reading of messages is in
`message_schema`. A field's `description` completes the sentence "FIELD must be …".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from pipelines.chat_interface import Message, PromptOptions, ToolUse
from server.api.client_json import MAX_DEPTH, nested_deeper
from server.api.openai.chat_fields import sort_out
from server.api.openai.chat_thinking import ThinkingFields, ThinkingWish, read_thinking
from server.api.openai.chat_tools import ToolFields, read_tool_use
from server.api.openai.field_types import Lenient, Limit, StopText, TokenId, TokenKey, Whole
from server.api.openai.message_schema import MESSAGES, MESSAGES_SCHEMA, read_messages
from server.api.schemas import ModelName, read_body
from server.api.thinking import SWITCHED_ON
from server.errors import BadRequest
from server.jobs.request import MAX_SEED
from server.service.chat_input import ChatInput

LIMIT = "a whole number of at least 1, or -1 for no limit"
PENALTY = "a number from -2 to 2"
LEAST_TOP_P = 1e-9  # what 0 means: the likeliest token alone


class StreamOptions(Lenient):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class CompletionFields(Lenient):
    messages: Annotated[list[Any], WithJsonSchema(MESSAGES_SCHEMA)] = Field(description=MESSAGES)
    model: ModelName | Literal[""] | None = None
    stream: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = Field(None, description='an object like {"include_usage": true}')
    max_tokens: Limit | None = Field(None, description=LIMIT)
    max_completion_tokens: Limit | None = Field(None, description=LIMIT)
    min_tokens: Annotated[Whole, Field(ge=0)] | None = Field(None, description="a whole number of at least 0")
    temperature: float | None = Field(None, ge=0, le=2, description="a number from 0 to 2")
    top_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    top_k: Annotated[Whole, Field(ge=-1)] | None = Field(
        None, description="a whole number of at least 1, or 0 or -1 for all tokens"
    )
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    do_sample: bool | None = Field(None, description="true or false: false is temperature 0")
    seed: Whole | None = Field(None, description="a whole number, or -1 for any seed")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = Field(
        None, description="a text of at most 1000 characters, or a list of at most 16 such texts"
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = Field(
        None, description="a list of at most 64 token ids"
    )
    ignore_eos: bool | None = Field(None, description="true or false: whether to go on behind the end of a reply")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="a number above 0 and at most 10")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description=PENALTY)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description=PENALTY)
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None,
        max_length=1024,
        description='an object of at most 1024 token ids and numbers from -100 to 100, like {"42": -100}',
    )
    n: Annotated[Whole, Field(ge=1, le=16)] | None = Field(None, description="a whole number from 1 to 16")
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = Field(
        None, description="a whole number from 0 to 20, together with logprobs: true"
    )
    add_generation_prompt: bool | None = Field(None, description="true or false")
    continue_final_message: bool | None = Field(
        None, description="true or false: whether the reply goes on with the last message, which is the assistant's"
    )


class ChatCompletion(ThinkingFields, ToolFields, CompletionFields):
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
    fields, warnings = sort_out(raw, ChatCompletion.model_fields)
    body = read_body(ChatCompletion, fields)
    messages = read_messages(body.messages)
    wish = read_thinking(body)
    tools = read_tool_use(body)
    warnings += tools.warnings
    if body.stream_options is not None and body.stream_options.continuous_usage_stats:
        warnings.append("continuous_usage_stats: the usage is reported once, at the end.")
    max_tokens = _max_tokens(body, warnings)
    chat_input = ChatInput(
        messages=messages,
        stored=False,
        model=body.model or None,
        prompt_options=_prompt_options(body, wish, tools.use, messages),
        n_choices=body.n or 1,
        max_tokens=max_tokens,
        min_tokens=_min_tokens(body, max_tokens),
        temperature=0.0 if body.do_sample is False else body.temperature,
        top_p=None if body.top_p is None else max(body.top_p, LEAST_TOP_P),
        top_k=None if body.top_k is None else _top_k(body.top_k),
        min_p=body.min_p,
        seed=None if body.seed in (None, -1) else body.seed % (MAX_SEED + 1),
        stop=_stop(body.stop),
        stop_tokens=tuple(body.stop_token_ids or ()),
        ignores_end=bool(body.ignore_eos),
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=tuple({int(token): bias for token, bias in (body.logit_bias or {}).items()}.items()),
        n_logprobs=_n_logprobs(body),
        max_thinking_tokens=wish.max_tokens,
        warnings=tuple(warnings),
    )
    return ChatCall(
        chat_input,
        streamed=bool(body.stream),
        with_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        with_thinking=wish.shown,
        calls_as_functions=tools.as_functions,
    )


def _max_tokens(body: ChatCompletion, warnings: list[str]) -> int | None:
    given = {limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None and limit > 0}
    if len(given) > 1:
        warnings.append("max_tokens and max_completion_tokens differ: the smaller one holds.")
    return min(given, default=None)


def _min_tokens(body: ChatCompletion, max_tokens: int | None) -> int:
    if body.min_tokens and max_tokens is not None and body.min_tokens > max_tokens:
        raise BadRequest("min_tokens must be at most max_tokens.", param="min_tokens")
    return body.min_tokens or 0


def _top_k(top_k: int) -> int:
    """Returns 0 for all tokens, also for more than any vocabulary has."""
    return top_k if 0 < top_k < 2**31 else 0


def _stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the texts that stop a reply; an empty one asks for nothing."""
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop or ()) if text)


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
        effort=wish.effort, template_variables=variables, continues=_continues(body, messages), tool_use=tool_use
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
