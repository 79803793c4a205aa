"""The tools of a response: what the model is offered, which call is asked for, and what a call is to the client."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.chat_interface import Tool, ToolUse
from server.api.openai.responses.tools import Called, ToolWish, call_input, read_wish
from server.errors import BadRequest

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "Says it.", "parameters": SCHEMA, "strict": False}
IN_CHATS = {"type": "function", "function": {"name": "weather", "description": "Says it.", "parameters": SCHEMA}}
CREW = {"type": "namespace", "name": "crew", "tools": [{"type": "function", "name": "ask"}]}
PATCH = {"type": "custom", "name": "patch"}
READ = Tool("weather", "Says it.", SCHEMA)


def wish(*tools: Any, choice: Any = None, parallel: bool = True) -> ToolWish:
    return read_wish(tools, choice, parallel=parallel)


def test_functions_are_read_in_the_flat_form_and_in_that_of_chats() -> None:
    assert wish() == ToolWish()
    assert wish(WEATHER).use == wish(IN_CHATS).use == ToolUse(tools=(READ,))
    assert wish(WEATHER, parallel=False).use == ToolUse(tools=(READ,), parallel=False)
    assert wish({"name": "now"}).use == ToolUse(tools=(Tool("now"),))


def test_the_model_sees_other_tools_as_functions_and_the_client_its_own() -> None:
    read = wish(CREW, PATCH, WEATHER)

    assert [tool.name for tool in read.use.tools] == ["crew__ask", "patch", "weather"]
    assert read.called == {
        "crew__ask": Called("ask", "crew"), "patch": Called("patch", custom=True), "weather": Called("weather"),
    }  # fmt: skip
    assert list(read.use.tools[1].parameters["properties"]) == ["input"]  # type: ignore[call-overload]  # any JSON


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ("auto", None, 3)),
        ("none", ("none", None, 3)),
        ("required", ("required", None, 3)),
        ({"type": "required"}, ("required", None, 3)),
        ({"type": "function", "name": "weather"}, ("required", "weather", 3)),
        ({"type": "function", "function": {"name": "weather"}}, ("required", "weather", 3)),
        ({"type": "function", "name": "ask", "namespace": "crew"}, ("required", "crew__ask", 3)),
        ({"type": "custom", "name": "patch"}, ("required", "patch", 3)),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            ("required", None, 1),
        ),
    ],
)
def test_the_choice_of_a_tool_is_read(choice: Any, expected: tuple[str, str | None, int]) -> None:
    use = wish(CREW, PATCH, WEATHER, choice=choice).use

    assert (use.choice, use.name, len(use.tools)) == expected


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ([5], None, "tools[0] must be an object"),
        ([{"type": "function"}], None, "tools[0].name must be"),
        ([WEATHER, WEATHER], None, "tools[1].name must be another name"),
        ([{"type": "mcp"}], None, "tools[0]: a tool of the type mcp is not supported"),
        ([{"type": "web_search", "external_web_access": True}], None, "tools[0]: a tool of the type web_search"),
        ([{"type": "namespace", "name": "crew"}], None, "tools[0] must be an object with the name of the namespace"),
        ([{**CREW, "tools": [{"type": "mcp"}]}], None, "tools[0].tools[0]: a tool of the type mcp"),
        ([{**PATCH, "format": {"type": "grammar"}}], None, "tools[0].format.definition must be text"),
        ([WEATHER], "some", "tool_choice must be"),
        ([WEATHER], {"type": "mcp"}, "tool_choice: a tool of the type mcp"),
        ([WEATHER], {"type": "function"}, "tool_choice must be"),
        ([WEATHER], {"type": "allowed_tools", "mode": "auto"}, "tool_choice must be"),
        ([WEATHER], {"type": "function", "name": "other"}, "tool_choice must name one of the tools"),
        ([], "required", "tool_choice requires a call"),
    ],
)
def test_a_tool_that_cannot_be_offered_is_refused_at_its_place(tools: list[Any], choice: Any, message: str) -> None:
    with pytest.raises(BadRequest) as error:
        wish(*tools, choice=choice)

    assert error.value.message.startswith(message)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"input": "a\\nb"}', "a\nb"), ('{"input": 5}', '{"input": 5}'), ("a b", "a b"), ("[" * 9999, "[" * 9999)],
)
def test_the_input_of_a_custom_tool_is_taken_out_of_its_arguments(arguments: str, text: str) -> None:
    assert call_input(arguments) == text
