"""The bodies of Ollama's /api/chat and /api/generate, and their conversion to the service's own types. Pure functions.

A field here is done; `RULES` says which others are taken or refused. A field's `description` completes the sentence
"FIELD must be …".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from pipelines.chat_interface import Effort, Grammar, Message, PromptOptions, RawPrompt, ToolUse
from server.api.ollama.keep_alive import KEEP_ALIVE, read_keep_alive
from server.api.ollama.messages import MESSAGES, MESSAGES_SCHEMA, read_images, read_messages
from server.api.ollama.options import read_options
from server.api.openai.chat_thinking import EFFORTS, EffortName
from server.api.openai.chat_tools import TOOLS, TOOLS_SCHEMA, ToolFields, read_tool_use
from server.api.openai.output_format import schema_grammar
from server.api.schemas import read_body
from server.api.shared.client_json import readable
from server.api.shared.field_rules import FieldRules, sort_out
from server.api.shared.field_types import Lenient, Whole
from server.api.shared.message_images import RequestImages
from server.api.strict_fields import ModelName
from server.api.thinking import SWITCHED_ON
from server.errors import BadRequest
from server.service.chat_input import ChatInput

FORMAT = 'json, or a JSON schema like {"type": "object", "properties": {…}}'
IMAGES = "a list of pictures in base64"
RULES = FieldRules(
    aliases={},
    noted=("shift", "context_length"),
    neutral=dict.fromkeys(("suffix", "template", "context", "width", "height", "steps"), ()),
    never=(),
    warnings={},
    reasons={
        "suffix": "no model here fills in the middle of a text. Leave it out.",
        "template": "a model's own chat template is used. Send raw: true for none.",
        "context": "send the conversation to /api/chat instead.",
    },
)


class TalkFields(Lenient):
    """What both bodies have."""

    model: ModelName
    stream: bool | None = Field(None, description="true, the default, or false")
    format: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]})] = Field(
        None, description=FORMAT
    )
    options: dict[str, Any] | None = Field(None, description='an object of options like {"temperature": 0.5}')
    think: bool | EffortName | None = Field(None, description=f"true, false or one of {', '.join(EFFORTS)}")
    keep_alive: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]})] = Field(
        None, description=KEEP_ALIVE
    )
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = Field(None, description="a whole number from 0 to 20")


class OllamaChat(TalkFields):
    messages: Annotated[list[Any], WithJsonSchema(MESSAGES_SCHEMA)] = Field(description=MESSAGES)
    tools: Annotated[list[Any], WithJsonSchema(TOOLS_SCHEMA)] | None = Field(None, description=TOOLS)
    truncate: bool | None = Field(
        None, description="true, the default, to leave out the oldest messages of a chat that is too long, or false"
    )


class OllamaGenerate(TalkFields):
    prompt: str | None = Field(None, description="text")
    system: str | None = Field(None, description="text: the system prompt")
    images: Annotated[list[Any], WithJsonSchema({"type": "array", "items": {"type": "string"}})] | None = Field(
        None, description=IMAGES
    )
    raw: bool | None = Field(None, description="true or false: whether the prompt is read without a chat template")
    truncate: bool | None = Field(None, description="true or false; a prompt that is too long is an error")


@dataclass(frozen=True, slots=True)
class OllamaCall:
    """A request that was read: what is asked, and the form of the reply."""

    kind: Literal["chat", "generate"]
    model: str
    chat_input: ChatInput | None  # None: nothing is asked, which loads the model, or unloads it
    streamed: bool
    keep_alive_s: float | None


def is_chat(raw: Mapping[str, Any]) -> bool:
    """Whether a body of /api/chat is Ollama's: ours has a `message` instead."""
    return "messages" in raw and "message" not in raw


def is_generate(raw: Mapping[str, Any]) -> bool:
    """Whether a body of /api/generate is Ollama's: ours has a `type`, and Ollama's always a `model`."""
    return "type" not in raw and "model" in raw


def read_chat(raw: Mapping[str, Any]) -> OllamaCall:
    """Raises `BadRequest` with the field at fault and what it must be."""
    fields, warnings = sort_out(raw, OllamaChat.model_fields, RULES)
    body = read_body(OllamaChat, fields)
    messages = read_messages(body.messages)
    use = read_tool_use(ToolFields(tools=body.tools)).use
    given = {"messages": messages, "prompt_options": _prompt_options(body, use)}
    if body.truncate is not False:
        given["may_leave_out"] = _older(messages)
    return _call("chat", body, given if messages else None, warnings)


def read_generate(raw: Mapping[str, Any]) -> OllamaCall:
    """Raises `BadRequest` with the field at fault and what it must be."""
    fields, warnings = sort_out(raw, OllamaGenerate.model_fields, RULES)
    body = read_body(OllamaGenerate, fields)
    prompt, system = readable(body.prompt or "", "prompt"), readable(body.system or "", "system")
    images = read_images(body.images, "images", RequestImages("images"))
    if body.raw:
        if images or system:
            raise BadRequest("raw: true takes a prompt alone, without system and images.", param="raw")
        given: dict[str, Any] = {"raw_prompts": (RawPrompt(text=prompt, grammar=_grammar(body.format)),)}
    else:
        first = [Message("system", system)] if system else []
        given = {
            "messages": (*first, Message("user", prompt, images=images)),
            "prompt_options": _prompt_options(body),
        }
    return _call("generate", body, given if prompt or images else None, warnings)


def _call(
    kind: Literal["chat", "generate"], body: TalkFields, given: Mapping[str, Any] | None, warnings: list[str]
) -> OllamaCall:
    """given: what makes the prompt; None: nothing is asked."""
    settings, more = read_options(body.options or {})
    chat_input = None
    if given is not None:
        if body.top_logprobs and not body.logprobs:
            raise BadRequest("top_logprobs requires logprobs: true.", param="top_logprobs")
        chat_input = ChatInput(
            **given,
            **settings,
            stored=False,
            model=body.model,
            n_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            warnings=(*warnings, *more),
        )
    return OllamaCall(kind, body.model, chat_input, body.stream is not False, read_keep_alive(body.keep_alive))


def _prompt_options(body: TalkFields, use: ToolUse | None = None) -> PromptOptions:
    effort: Effort | None = "none" if body.think is False else EFFORTS.get(str(body.think))
    return PromptOptions(
        effort=effort,
        template_variables=SWITCHED_ON if body.think is True else {},
        tool_use=use or ToolUse(),
        grammar=_grammar(body.format),
    )


def _grammar(form: Any) -> Grammar | None:
    if form is None or form == "":
        return None
    if form == "json":
        return Grammar("json_object", field="format")
    if not isinstance(form, dict):
        raise BadRequest(f"format must be {FORMAT}.", param="format")
    return schema_grammar(form, "format")


def _older(messages: tuple[Message, ...]) -> range:
    """The messages between the system prompt and the last one."""
    first = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    return range(first, max(first, len(messages) - 1))
