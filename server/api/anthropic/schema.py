"""The body of a request for a message, and its conversion to the service's own types. Pure functions.

A field here is done; `fields` says which others are taken or refused. A field's `description` completes the sentence
"FIELD must be …".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, WithJsonSchema

from pipelines.chat_interface import Effort, Grammar, PromptOptions
from server.api.anthropic.fields import sorted_fields
from server.api.anthropic.messages import (
    MESSAGES,
    MESSAGES_SCHEMA,
    SYSTEM,
    SYSTEM_SCHEMA,
    Conversation,
    read_conversation,
)
from server.api.anthropic.tools import CHOICE, CHOICE_SCHEMA, TOOLS, TOOLS_SCHEMA, read_tool_use
from server.api.openai.output_format import schema_grammar
from server.api.openai.sampling_fields import LEAST_TOP_P
from server.api.schemas import read_body
from server.api.shared.field_types import Lenient, StopText, Whole
from server.api.strict_fields import ModelName
from server.api.thinking import SWITCHED_ON
from server.errors import BadRequest
from server.jobs.request.generate_request import MAX_SEED
from server.service.chat_input import ChatInput

MAX_TOKENS = "a whole number of at least 1"
FORMAT = '{"type": "json_schema", "schema": {…}}'
EFFORTS: Mapping[str, Effort] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}

Positive: TypeAlias = Annotated[Whole, Field(ge=1)]


class ThinkingConfig(Lenient):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Positive | None = None
    display: Literal["summarized", "omitted", "updates"] | None = None


class OutputFormat(Lenient):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Lenient):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class PromptFields(Lenient):
    """The fields that make the prompt, which a count of its tokens has too."""

    model: ModelName
    messages: Annotated[list[Any], WithJsonSchema(MESSAGES_SCHEMA)] = Field(description=MESSAGES)
    system: Annotated[str | list[Any], WithJsonSchema(SYSTEM_SCHEMA)] | None = Field(None, description=SYSTEM)
    tools: Annotated[list[Any], WithJsonSchema(TOOLS_SCHEMA)] | None = Field(None, description=TOOLS)
    tool_choice: Annotated[dict[str, Any], WithJsonSchema(CHOICE_SCHEMA)] | None = Field(None, description=CHOICE)
    thinking: ThinkingConfig | None = Field(
        None,
        description='an object like {"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"} or '
        '{"type": "disabled"}',
    )
    output_config: OutputConfig | None = Field(
        None,
        description=f'an object like {{"effort": "low", "format": {FORMAT}}}, the effort one of {", ".join(EFFORTS)}',
    )
    output_format: OutputFormat | None = Field(
        None, description=f"an object like {FORMAT}; the older place of the format"
    )


class ReplyFields(PromptFields):
    stream: bool | None = Field(None, description="true or false")
    stop_sequences: Annotated[list[StopText], Field(max_length=64)] | None = Field(
        None, description="a list of at most 64 texts of at most 1000 characters"
    )
    temperature: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    top_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    top_k: Annotated[Whole, Field(ge=0)] | None = Field(
        None, description="a whole number of at least 1, or 0 for all tokens"
    )
    seed: Annotated[Whole, Field(ge=0, le=MAX_SEED)] | None = Field(
        None, description=f"a whole number from 0 to {MAX_SEED}; it is not a field of Anthropic's own service"
    )


class CreateMessage(ReplyFields):
    max_tokens: Positive = Field(description=MAX_TOKENS)


class CountTokens(ReplyFields):
    """The fields that change no prompt are taken, so that the same body can be counted."""

    max_tokens: Positive | None = Field(None, description=MAX_TOKENS)


@dataclass(frozen=True, slots=True)
class MessageCall:
    """A request that was read: what is asked, and the form of the reply."""

    chat_input: ChatInput
    streamed: bool
    shows_thinking: bool


def read_call(raw: Mapping[str, Any]) -> MessageCall:
    """Raises `BadRequest` with the field at fault and what it must be."""
    fields, warnings = sorted_fields(raw, CreateMessage.model_fields)
    body = read_body(CreateMessage, fields)
    chat_input = ChatInput(
        **_prompt(body),
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=None if body.top_p is None else max(body.top_p, LEAST_TOP_P),
        top_k=None if body.top_k is None else body.top_k if body.top_k < 2**31 else 0,
        seed=body.seed,
        stop=tuple(text for text in body.stop_sequences or () if text),
        max_thinking_tokens=body.thinking.budget_tokens if body.thinking else None,
        warnings=tuple(warnings),
    )
    shows_thinking = body.thinking is None or body.thinking.display != "omitted"
    return MessageCall(chat_input, streamed=bool(body.stream), shows_thinking=shows_thinking)


def read_count(raw: Mapping[str, Any]) -> ChatInput:
    """Reads the body of a count of tokens. Raises `BadRequest`."""
    fields, _ = sorted_fields(raw, CountTokens.model_fields)
    return ChatInput(**_prompt(read_body(CountTokens, fields)))


def _prompt(body: PromptFields) -> dict[str, Any]:
    """Returns the fields of a `ChatInput` that make its prompt."""
    conversation = read_conversation(body.system, body.messages)
    return {
        "messages": conversation.messages,
        "stored": False,
        "model": body.model,
        "prompt_options": _options(body, conversation),
    }


def _options(body: PromptFields, conversation: Conversation) -> PromptOptions:
    kind = body.thinking.type if body.thinking else None
    effort = body.output_config.effort if body.output_config else None
    wish: Effort | None = "none" if kind == "disabled" else EFFORTS[effort] if effort else None
    return PromptOptions(
        effort=wish,
        template_variables=SWITCHED_ON if kind in ("enabled", "adaptive") and wish is None else {},
        tool_use=read_tool_use(body.tools or [], body.tool_choice, conversation.tool_changes),
        grammar=_grammar(body),
    )


def _grammar(body: PromptFields) -> Grammar | None:
    places = {
        "output_config.format": body.output_config.format if body.output_config else None,
        "output_format": body.output_format,
    }
    given = {place: format.schema_ for place, format in places.items() if format is not None}
    if not given:
        return None
    if len(given) > 1:
        raise BadRequest("output_config.format and output_format exclude each other.", param="output_format")
    ((place, schema),) = given.items()
    return schema_grammar(schema, f"{place}.schema")
