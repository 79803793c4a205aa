"""POST /v1/messages: the tools that the model is shown, and which of them it may call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import Message, ToolUse
from tests.support.http.anthropic_messages import ask, body, text
from tests.support.http.front import front

pytestmark = pytest.mark.anyio

WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", None, True)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", None, False)),
        ({"type": "any"}, ("required", None, True)),
        ({"type": "tool", "name": "weather"}, ("required", "weather", False)),
        ({"type": "none"}, ("none", None, True)),
    ],
)
async def test_tools_and_the_choice_among_them_reach_the_model(tmp_path: Path, choice: Any, expected: Any) -> None:
    tool = {**WEATHER, "description": "Tells it", "type": "custom", "strict": True, "cache_control": None}
    async with front(tmp_path) as f:
        await ask(f, body(tools=[tool], tool_choice=choice))
    use = f.prompt_reader.options[0].tool_use

    assert (use.choice, use.name, use.parallel) == expected
    assert [(tool.name, tool.description, tool.parameters) for tool in use.tools] == [
        ("weather", "Tells it", WEATHER["input_schema"])
    ]


async def test_examples_of_a_tools_input_are_shown_with_its_schema(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await ask(f, body(tools=[{**WEATHER, "input_examples": [{"city": "Rome"}]}]))

    assert f.prompt_reader.options[0].tool_use.tools[0].parameters["examples"] == [{"city": "Rome"}]


async def test_a_deferred_tool_that_must_be_called_is_shown(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await ask(f, body(tools=[{**WEATHER, "defer_loading": True}]))
        await ask(f, body(tools=[{**WEATHER, "defer_loading": True}], tool_choice={"type": "tool", "name": "weather"}))
    hidden, named = (options.tool_use for options in f.prompt_reader.options)

    assert hidden == ToolUse()
    assert [tool.name for tool in named.tools] == ["weather"]


async def test_tools_come_and_go_in_messages_of_the_system(tmp_path: Path) -> None:
    def change(kind: str, name: str) -> dict[str, Any]:
        return {"type": kind, "tool": {"type": "tool_reference", "name": name}}

    later = {**WEATHER, "name": "later", "defer_loading": True}
    changes = [change("tool_addition", "later"), change("tool_removal", "weather"), text("Changed.")]
    async with front(tmp_path) as f:
        await ask(f, body("Hi", {"role": "system", "content": changes}, "And?", tools=[WEATHER, later]))

    assert [tool.name for tool in f.prompt_reader.options[0].tool_use.tools] == ["later"]
    assert f.prompt_reader.messages[0][1] == Message("system", "Changed.")
