"""The body of a response, and what is asked by it. Pure functions.

A field here is done. Those that are taken or refused are in `fields`, items are read in `items`, tools in `tools`. A
field's `description` completes the sentence "FIELD must be …".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, WithJsonSchema

from pipelines.chat_interface import Grammar, Message, PromptOptions
from server.api.openai.chat_thinking import Reasoning, ThinkingFields, read_thinking
from server.api.openai.output_format import MAX_LEVELS, read_format
from server.api.openai.responses.fields import RESPONSES
from server.api.openai.responses.item_messages import messages_of
from server.api.openai.responses.items import INPUT, MAX_ITEMS, READERS, ROLES, read_items
from server.api.openai.responses.tools import CHOICE, TOOLS, ToolWish, read_wish
from server.api.openai.sampling_fields import LIMIT, SamplingFields, StreamFields, StreamOptions, read_sampling
from server.api.schemas import read_body
from server.api.shared.client_json import READABLE, UNREADABLE, nested_deeper, texts_in
from server.api.shared.field_rules import sort_out
from server.api.shared.field_types import Lenient, Limit, Whole
from server.api.strict_fields import NO_NUL
from server.api.thinking import SWITCHED_ON
from server.errors import BadRequest
from server.service.chat_input import ChatInput
from server.service.responses import Item

LOGPROBS = "message.output_text.logprobs"
# Parts of replies that clients ask for; those of tools that this server does not run are never there.
INCLUDES = (
    LOGPROBS, "reasoning.encrypted_content", "file_search_call.results", "web_search_call.results",
    "web_search_call.action.sources", "code_interpreter_call.outputs", "computer_call_output.output.image_url",
    "message.input_image.image_url",
)  # fmt: skip
RESPONSE_ID = r"^resp_[0-9A-Za-z]{22}$"
ECHOED = (
    "instructions", "metadata", "tools", "tool_choice", "text", "user", "safety_identifier", "prompt_cache_key",
    "service_tier", "max_tool_calls",
)  # fmt: skip
MAX_ECHOED_LEVELS = MAX_LEVELS + 4  # of lists and objects: a schema stands some levels inside its field
MAX_INSTRUCTIONS = 1_000_000  # characters

AnyObject: TypeAlias = dict[str, Any]

INPUT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "maxItems": MAX_ITEMS,
            "items": {
                "title": "InputItem",
                "type": "object",
                "properties": {
                    "type": {"type": "string", "enum": list(READERS)},
                    "role": {"type": "string", "enum": list(ROLES)},
                    "content": {"description": "of a message: text, or parts of the type input_text, input_image …"},
                    "call_id": {"description": "of a call and of its output"},
                },
            },
        },
    ]
}
TOOLS_SCHEMA = {"type": "array", "items": {"title": "ResponseTool", "type": "object"}}
CHOICE_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "object"}]}


class ResponseReasoning(Reasoning):
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class TextFields(Lenient):
    format: AnyObject | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseFields(StreamFields):
    input: Annotated[Any, WithJsonSchema(INPUT_SCHEMA)] = Field(None, description=INPUT)
    instructions: str | None = Field(
        None,
        max_length=MAX_INSTRUCTIONS,
        pattern=NO_NUL,
        description=f"text of at most {MAX_INSTRUCTIONS} characters: the system prompt of this response alone",
    )
    previous_response_id: str | None = Field(
        None, description="the id of a stored response, whose conversation this one goes on with"
    )
    store: bool | None = Field(
        None, description="true or false: whether later ones can go on with this response, for 30 days; true if absent"
    )
    stream_options: StreamOptions | None = Field(
        None, description='an object like {"include_obfuscation": false}, which has no effect'
    )
    max_output_tokens: Limit | None = Field(None, description=LIMIT)
    tools: Annotated[list[Any], WithJsonSchema(TOOLS_SCHEMA)] | None = Field(None, description=TOOLS)
    tool_choice: Annotated[str | AnyObject, WithJsonSchema(CHOICE_SCHEMA)] | None = Field(None, description=CHOICE)
    parallel_tool_calls: bool | None = Field(
        None, description="true or false: whether one response may have several calls"
    )
    text: TextFields | None = Field(
        None, description='an object like {"format": {"type": "json_schema", "name": "NAME", "schema": …}}'
    )
    include: list[str] | None = Field(
        None, max_length=32, description=f"a list of names: {', '.join(INCLUDES)}; only the first one has an effect"
    )
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = Field(
        None, description="a whole number from 0 to 20: the likeliest tokens to report at each place"
    )
    metadata: AnyObject | None = Field(None, max_length=64, description="an object of at most 64 fields")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="auto or disabled: whether the oldest turns are left out when the context is too long"
    )


class ResponseBody(ThinkingFields, SamplingFields, ResponseFields):
    """All fields that are done."""  # pydantic lists those of the last base class first

    n: Annotated[Whole, Field(ge=1, le=1)] | None = Field(None, description="1: a response has one reply")
    reasoning: ResponseReasoning | None = Field(None, description='an object like {"effort": "low", "summary": "auto"}')


@dataclass(frozen=True, slots=True)
class ResponseCall:
    """A response that was read: what is asked, and the form of the reply."""

    items: Sequence[Item]  # may refer to stored ones
    chat_input: ChatInput  # without messages, which the items become
    tools: ToolWish
    previous_id: str | None
    instructions: str | None
    stored: bool
    streamed: bool
    truncated: bool  # when the context is too long
    with_thinking: bool
    with_summary: bool
    with_logprobs: bool
    echoed: Mapping[str, Any]  # fields that the response repeats

    def asked(self, items: Iterable[tuple[Item, str]]) -> ChatInput:
        """Returns the input of the chat for these items, each with its place in the request. Raises `BadRequest`."""
        messages = messages_of(items)
        if not messages:
            raise BadRequest(
                f"input must be {INPUT}, of which one is a message or the output of a call.", param="input"
            )
        first = [Message("system", self.instructions)] if self.instructions else []
        whole = (*first, *messages)
        return replace(
            self.chat_input, messages=whole, may_leave_out=_oldest_turns(whole) if self.truncated else range(0)
        )


def read_response(raw: Mapping[str, Any]) -> ResponseCall:
    """Raises `BadRequest` with the field at fault and what it must be."""
    _check_echoed(raw)
    fields, warnings = sort_out(raw, ResponseBody.model_fields, RESPONSES)
    body = read_body(ResponseBody, fields)
    if "input" not in fields and body.previous_response_id is None:
        raise BadRequest(f"input is required: {INPUT}.", param="input")
    items = read_items(fields.get("input", []))
    wish = read_thinking(body)
    tools = read_wish(body.tools, body.tool_choice, parallel=body.parallel_tool_calls)
    include = _include(body)
    variables = dict(body.chat_template_kwargs or {})
    options = PromptOptions(
        effort=wish.effort,
        template_variables={**SWITCHED_ON, **variables} if wish.on else variables,
        continues=False,
        tool_use=tools.use,
        grammar=_grammar(body),
    )
    with_logprobs = LOGPROBS in include or bool(body.top_logprobs)
    limited = body.max_output_tokens is not None and body.max_output_tokens > 0
    chat_input = ChatInput(
        **read_sampling(body, body.max_output_tokens if limited else None),
        messages=(),
        stored=False,
        model=body.model or None,
        prompt_options=options,
        n_logprobs=(body.top_logprobs or 0) if with_logprobs else None,
        max_thinking_tokens=wish.max_tokens,
        warnings=(*warnings, *tools.warnings),
    )
    reasoning = body.reasoning
    return ResponseCall(
        items=items,
        chat_input=chat_input,
        tools=tools,
        previous_id=body.previous_response_id or None,
        instructions=body.instructions,
        stored=body.store is not False,
        streamed=bool(body.stream),
        truncated=body.truncation == "auto",
        with_thinking=wish.shown,
        with_summary=reasoning is not None and (reasoning.summary or reasoning.generate_summary) not in (None, "none"),
        with_logprobs=with_logprobs,
        echoed={
            name: raw[name] for name in (*ECHOED, "reasoning", "temperature", "top_p") if raw.get(name) is not None
        },
    )


def _check_echoed(raw: Mapping[str, Any]) -> None:
    """Refuses what could not be written into the response."""
    for name in (*ECHOED, "reasoning", "chat_template_kwargs"):
        value = raw.get(name)
        if nested_deeper(value, MAX_ECHOED_LEVELS):
            raise BadRequest(f"{name} must be nested at most {MAX_ECHOED_LEVELS} levels deep.", param=name)
        if any(map(UNREADABLE.search, texts_in(value))):
            raise BadRequest(f"{name} must be made of {READABLE}.", param=name)


def _oldest_turns(messages: Sequence[Message]) -> range:
    """Returns the places of the messages between the system prompt and the user's last one."""
    of_user = [index for index, message in enumerate(messages) if message.role == "user"]
    begin = next((index for index, message in enumerate(messages) if message.role != "system"), 0)
    return range(begin, max(begin, of_user[-1])) if of_user else range(0)


def _include(body: ResponseBody) -> Sequence[str]:
    include = body.include or []
    if any(name not in INCLUDES for name in include):
        raise BadRequest(f"include must be a list of names: {', '.join(INCLUDES)}.", param="include")
    return include


def _grammar(body: ResponseBody) -> Grammar | None:
    """The form of the text, from what chat completions have in two objects, one in the other."""
    text = body.text
    if text is None:
        return None
    if text.verbosity not in (None, "medium"):
        raise BadRequest('text.verbosity is not supported: only "medium" is. Leave it out.', param="text.verbosity")
    return read_format(text.format, "text.format", flat=True)
