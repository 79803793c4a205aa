"""The body of a completion, which goes on with a text as it is, and its conversion to the service's own types.

Pure functions. A field's `description` completes the sentence "FIELD must be …".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from pipelines.chat_interface import RawPrompt
from server.api.openai.chat_fields import CHAT
from server.api.openai.chat_thinking import ThinkingFields
from server.api.openai.chat_tools import ToolFields
from server.api.openai.output_format import OutputFields, read_output_format
from server.api.openai.sampling_fields import SamplingFields, StreamFields, read_sampling
from server.api.schemas import read_body
from server.api.shared.field_rules import FieldRules, sort_out
from server.api.shared.field_types import Lenient, Whole, token_ids
from server.errors import BadRequest
from server.service.chat_input import ChatInput

MAX_REPLIES = 128  # of one request: prompts, times n
USUAL_TOKENS = 16  # of a reply, as OpenAI has it
PROMPT = f"a text, a list of token ids, or a list of 1 to {MAX_REPLIES} texts or of as many lists of token ids"
LIMIT = "a whole number of at least 0, or -1 for no limit"
LOGPROBS = "a whole number from 0 to 20: how many of the likeliest tokens to report at each place"

_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "maxItems": MAX_REPLIES},
        _TOKENS,
        {"type": "array", "items": _TOKENS, "maxItems": MAX_REPLIES},
    ]
}

# A text has no template that could show tools or switch thinking, and no roles.
OF_CHATS = sorted(
    {
        *ThinkingFields.model_fields,
        *ToolFields.model_fields,
        "messages",
        "add_generation_prompt",
        "continue_final_message",
    }
)
RULES = FieldRules(
    aliases={
        "max_completion_tokens": "max_tokens",
        **{name: own for name, own in CHAT.aliases.items() if own not in OF_CHATS},
    },
    noted=CHAT.noted,
    neutral={
        **CHAT.neutral,
        **dict.fromkeys(OF_CHATS, ()),
        "tool_choice": ("none", "auto"),
        "include_reasoning": (True,),
        "suffix": (),
    },
    never=CHAT.never,
    warnings=CHAT.warnings,
    reasons={
        **CHAT.reasons,
        "suffix": "fill in the middle is not supported. Leave it out.",
        "messages": "send them to /v1/chat/completions.",
    },
)


class PromptFields(Lenient):
    prompt: Annotated[Any, WithJsonSchema(PROMPT_SCHEMA)] = Field(description=PROMPT)


class EchoFields(Lenient):
    max_tokens: Annotated[Whole, Field(ge=-1)] | None = Field(None, description=f"{LIMIT}; {USUAL_TOKENS} if not given")
    best_of: Whole | None = Field(None, description="the same number as n")
    echo: bool | None = Field(None, description="true or false: whether the text of the prompt precedes the reply")
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = Field(
        None, description=f"{LOGPROBS}; with echo, of the prompt too"
    )
    prompt_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = Field(
        None, description=f"{LOGPROBS} of the prompt; not in a stream"
    )
    add_special_tokens: bool | None = Field(
        None,
        description="true or false: whether a text gets the tokens that its tokenizer adds to any; true if not given",
    )


class Completion(OutputFields, EchoFields, SamplingFields, StreamFields, PromptFields):
    """All fields that are done."""  # pydantic lists those of the last base class first


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """A completion that was read: what is asked, and the form of the reply."""

    chat_input: ChatInput
    streamed: bool
    with_usage: bool  # in a stream
    echo: bool
    n_logprobs: int | None  # likeliest tokens at each place; None: no log probabilities
    n_prompt_logprobs: int | None  # the same of the prompt, in the field prompt_logprobs


def read_completion(raw: Mapping[str, Any]) -> CompletionCall:
    """Raises `BadRequest` with the field at fault and what it must be."""
    given = {name: value for name, value in raw.items() if not (value is False and name.endswith("logprobs"))}
    fields, warnings = sort_out(given, Completion.model_fields, RULES)
    body = read_body(Completion, fields)
    max_tokens = USUAL_TOKENS if body.max_tokens is None else body.max_tokens
    if body.best_of not in (None, body.n or 1):
        raise BadRequest("best_of must be the same number as n: no reply is left out.", param="best_of")
    if body.stream and body.prompt_logprobs is not None:
        raise BadRequest(
            "prompt_logprobs is not supported in a stream. Use echo and logprobs.", param="prompt_logprobs"
        )
    chat_input = ChatInput(
        raw_prompts=_raw_prompts(body, max_tokens),
        stored=False,
        model=body.model or None,
        n_logprobs=body.logprobs,
        n_prompt_logprobs=_most(body.prompt_logprobs, body.logprobs if body.echo else None),
        warnings=(*warnings, *body.stream_warnings),
        **read_sampling(body, None if max_tokens < 0 else max_tokens),
    )
    if chat_input.n_replies > MAX_REPLIES:
        raise BadRequest(f"n must be at most {MAX_REPLIES} divided by the number of prompts.", param="n")
    return CompletionCall(
        chat_input,
        streamed=bool(body.stream),
        with_usage=body.with_usage,
        echo=bool(body.echo),
        n_logprobs=body.logprobs,
        n_prompt_logprobs=body.prompt_logprobs,
    )


def _most(*numbers: int | None) -> int | None:
    return max((number for number in numbers if number is not None), default=None)


def _raw_prompts(body: Completion, max_tokens: int) -> tuple[RawPrompt, ...]:
    texts, grammar = _texts(body.prompt), read_output_format(body)
    return tuple(
        RawPrompt(
            text=text,
            adds_special_tokens=body.add_special_tokens is not False,
            repeated=bool(body.echo),
            n_reserved=0 if max_tokens == 0 else 1,
            grammar=grammar,
            field="prompt" if len(texts) == 1 else f"prompt[{index}]",
        )
        for index, text in enumerate(texts)
    )


def _texts(prompt: Any) -> Sequence[str | tuple[int, ...]]:
    match prompt:
        case str():
            return [prompt]
        case [first, *_] if type(first) in (int, float):
            return [_tokens(prompt)]
        case [str(), *_] if len(prompt) <= MAX_REPLIES and all(isinstance(text, str) for text in prompt):
            return list(prompt)
        case [list(), *_] if len(prompt) <= MAX_REPLIES and all(isinstance(tokens, list) for tokens in prompt):
            return [_tokens(tokens) for tokens in prompt]
    raise _bad_prompt()


def _tokens(values: Sequence[object]) -> tuple[int, ...]:
    if (tokens := token_ids(values)) is None:
        raise _bad_prompt()
    return tokens


def _bad_prompt() -> BadRequest:
    return BadRequest(f"prompt must be {PROMPT}.", param="prompt")
