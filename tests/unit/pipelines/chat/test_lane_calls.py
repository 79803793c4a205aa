"""A lane's replies that must call tools: they do, at any temperature, beside chats without tools."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest

from pipelines.chat.grammar.compiler import GrammarCompiler
from pipelines.chat.lane import ChatLane
from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import CallDelta, ChatRequest, Message, PromptOptions, Tool, ToolUse
from pipelines.interface import Replied, TextDelta
from tests.support.lanes.chat_play import TOKENIZER, chat, play

pytestmark = pytest.mark.usefixtures("one_thread")

ROUTE = Tool(
    "route",
    "Finds a way.",
    {
        "type": "object",
        "properties": {
            "to": {"type": "string", "maxLength": 5},
            "by": {"enum": ["car", "foot"]},
            "km": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["to", "by"],
        "additionalProperties": False,
    },
)
NOW = Tool("now")
USE = ToolUse(tools=(ROUTE, NOW), choice="required", parallel=False)
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.0},
    {"temperature": 1.5, "n_logprobs": 2},
    {"temperature": 1.0, "repetition_penalty": 1.4},
)


@functools.cache
def compiler() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER)


def asking(name: str, use: ToolUse = USE, **settings: Any) -> ChatRequest:
    prompt = read_prompt(TOKENIZER, [Message("user", f"go {name}")], PromptOptions(tool_use=use))
    assert prompt.grammar is not None
    prompt = replace(prompt, constraint=compiler().compile(prompt.grammar))
    return ChatRequest(id=name, prompt=prompt, max_tokens=400, **settings)


def test_required_calls_match_their_schemas_and_others_write_as_they_like(lane: ChatLane) -> None:
    plain = [chat("n1", max_tokens=30), chat("n2", max_tokens=30, temperature=1.0, seed=3)]
    alone = [update for update in play(lane, plain) if isinstance(update, Replied)]
    asked = [asking(f"t{i}", seed=i, **settings) for i, settings in enumerate(SETTINGS)]

    updates = play(lane, [*plain, *asked])

    ends = {update.request_id: update for update in updates if isinstance(update, Replied)}
    assert [ends["n1"], ends["n2"]] == sorted(alone, key=lambda end: end.request_id)
    for request in asked:
        end = ends[request.id]
        (call,) = end.tool_calls
        assert (end.finish_reason, end.text) == ("tool_calls", "")
        schema = ROUTE.parameters if call.name == "route" else {"maxProperties": 0}
        jsonschema_rs.validate(schema, json.loads(call.arguments))
        parts = [each.call for each in updates if isinstance(each, TextDelta) and each.request_id == request.id]
        assert all(isinstance(part, CallDelta) for part in parts)
        assert "".join(part.arguments for part in parts if part is not None) == call.arguments


def test_a_named_tool_is_called_though_the_model_would_choose_another(lane: ChatLane) -> None:
    for name in ("now", "route"):
        updates = play(lane, [asking("x", replace(USE, name=name))])
        (end,) = [update for update in updates if isinstance(update, Replied)]
        assert [call.name for call in end.tool_calls] == [name]
