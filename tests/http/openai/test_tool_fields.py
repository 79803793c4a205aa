"""The tools of a chat completion: what is read from the fields, and what is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.chat_interface import Tool, ToolUse
from server.api.openai.chat_schema import read_chat
from server.api.shared.tool_fields import MAX_SCHEMA_BYTES, MAX_TOOLS
from server.errors import BadRequest

HI = {"role": "user", "content": "Hi"}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Says the weather.", "parameters": SCHEMA}
TIME = {"name": "clock.now"}
TOOLS = [{"type": "function", "function": WEATHER}, {"function": TIME}]
READ = (Tool("weather", "Says the weather.", SCHEMA), Tool("clock.now"))
NAMED = {"type": "function", "function": {"name": "weather"}}


def use(**fields: Any) -> ToolUse:
    return read_chat({"messages": [HI], **fields}).chat_input.prompt_options.tool_use


def function(**fields: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ToolUse()),
        ({"tools": [], "tool_choice": "none"}, ToolUse(choice="none")),
        ({"tools": TOOLS}, ToolUse(tools=READ)),
        ({"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": True}, ToolUse(tools=READ)),
        ({"tools": TOOLS, "tool_choice": {"type": "auto"}}, ToolUse(tools=READ)),
        ({"tools": TOOLS, "tool_choice": "none"}, ToolUse(tools=READ, choice="none")),
        ({"tools": TOOLS, "tool_choice": "required"}, ToolUse(tools=READ, choice="required")),
        ({"tools": TOOLS, "tool_choice": "any"}, ToolUse(tools=READ, choice="required")),
        (
            {"tools": TOOLS, "tool_choice": NAMED},
            ToolUse(tools=READ, choice="required", name="weather", parallel=False),
        ),
        ({"tools": TOOLS, "tool_choice": allowed("auto", "weather")}, ToolUse(tools=READ[:1])),
        (
            {"tools": TOOLS, "tool_choice": allowed("required", "clock.now", "weather")},
            ToolUse(tools=READ, choice="required"),
        ),
        ({"tools": TOOLS, "parallel_tool_calls": False}, ToolUse(tools=READ, parallel=False)),
        ({"functions": [WEATHER]}, ToolUse(tools=READ[:1], parallel=False)),
        ({"functions": [WEATHER], "function_call": "none"}, ToolUse(tools=READ[:1], choice="none", parallel=False)),
        (
            {"functions": [WEATHER, TIME], "function_call": {"name": "clock.now"}},
            ToolUse(tools=READ, choice="required", name="clock.now", parallel=False),
        ),
        ({"tools": function(description=None, parameters=None)}, ToolUse(tools=(Tool("f"),))),
        ({"tools": function(name="mcp__files:read/all")}, ToolUse(tools=(Tool("mcp__files:read/all"),))),
    ],
)
def test_tools_and_the_choice_among_them_are_read(fields: Any, expected: ToolUse) -> None:
    assert use(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": "weather"}, "tools", "tools must be a list of at most 128 tools"),
        ({"tools": ["weather"]}, "tools", "tools[0] must be an object"),
        ({"tools": [*TOOLS, {"type": "web_search"}]}, "tools", "tools[2]: a tool of the type web_search is not"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools", "of the type custom is not supported"),
        ({"tools": [{"type": "<b>"}]}, "tools", "tools[0]: a tool of this type is not supported"),
        ({"tools": [{"type": 7}]}, "tools", "tools[0].type must be text"),
        ({"tools": [{"type": "function"}]}, "tools", "tools[0].function must be an object"),
        ({"tools": function(name="")}, "tools", "tools[0].function.name must be 1 to 128 letters"),
        ({"tools": function(name="two words")}, "tools", "tools[0].function.name must be"),
        ({"tools": function(name="x" * 129)}, "tools", "tools[0].function.name must be"),
        ({"tools": function(name=None)}, "tools", "tools[0].function.name must be"),
        ({"tools": TOOLS[:1] * 2}, "tools", "tools[1].function.name must be another name"),
        ({"tools": function(description=7)}, "tools", "tools[0].function.description must be text"),
        ({"tools": function(description="\ud800")}, "tools", "tools[0].function.description must be text without"),
        ({"tools": function(parameters=[])}, "tools", "tools[0].function.parameters must be a JSON schema"),
        ({"tools": function(parameters={"type": "string"})}, "tools", "parameters must be a JSON schema"),
        ({"tools": function(parameters={"properties": []})}, "tools", "parameters must be a JSON schema"),
        ({"tools": function(parameters={"title": "\0"})}, "tools", "parameters must be a JSON schema of text without"),
        ({"tools": [{"function": {"name": f"f{n}"}} for n in range(MAX_TOOLS + 1)]}, "tools", "at most 128 tools"),
        (
            {"tools": function(parameters={"title": "x" * MAX_SCHEMA_BYTES})},
            "tools",
            "tools whose schemas have at most 262144 bytes together",
        ),
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice", "tool_choice must be auto, none, required"),
        ({"tools": TOOLS, "tool_choice": 7}, "tool_choice", "tool_choice must be auto, none, required"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice", "tool_choice must be auto"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom"}}, "tool_choice", "tool_choice must be auto"),
        ({"tools": TOOLS, "tool_choice": {"type": []}}, "tool_choice", "tool_choice must be auto"),
        ({"tools": TOOLS, "tool_choice": allowed("perhaps")}, "tool_choice", "tool_choice must be auto"),
        ({"tools": TOOLS, "tool_choice": allowed("auto", "g")}, "tool_choice", "must name one of the tools"),
        ({"tools": TOOLS, "tool_choice": allowed("required")}, "tool_choice", "at least one tool must be given"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "must name one of the tools",
        ),
        ({"tool_choice": NAMED}, "tool_choice", "must name one of the tools"),
        ({"tool_choice": "required"}, "tool_choice", "at least one tool must be given"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "parallel_tool_calls must be true or false"),
        ({"tools": TOOLS, "functions": [WEATHER]}, "functions", "exclude each other"),
        ({"tools": TOOLS, "function_call": "auto"}, "functions", "exclude each other"),
        ({"functions": [{}]}, "functions", "functions[0].name must be"),
        ({"functions": [WEATHER], "function_call": "required"}, "function_call", "function_call must be auto, none"),
        ({"functions": [WEATHER], "function_call": {"name": "g"}}, "function_call", "must name one of the tools"),
    ],
)
def test_a_fault_is_refused_with_its_place(fields: Any, param: str, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        use(**fields)

    assert message in refused.value.message
    assert refused.value.param == param


def test_a_schema_may_be_nested_32_levels_deep() -> None:
    schema: dict[str, Any] = {}
    for _ in range(31):
        schema = {"x": schema}
    assert use(tools=function(parameters=schema)).tools[0].parameters == schema

    with pytest.raises(BadRequest, match=r"tools\[0\].function.parameters must be nested at most 32 levels deep"):
        use(tools=function(parameters={"x": schema}))


@pytest.mark.parametrize(("choice", "n_warnings"), [("auto", 1), ("required", 0), ("none", 0)])
def test_strict_arguments_are_a_warning_where_no_call_is_required(choice: str, n_warnings: int) -> None:
    warnings = read_chat({"messages": [HI], "tools": function(strict=True), "tool_choice": choice}).chat_input.warnings

    assert len(warnings) == n_warnings


def test_a_result_of_an_unknown_call_is_taken() -> None:
    messages = [HI, {"role": "tool", "tool_call_id": "call_of_another_server", "content": "42"}]

    assert read_chat({"messages": messages}).chat_input.messages[1].content == "42"
