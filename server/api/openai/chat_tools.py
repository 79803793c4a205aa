"""The tools of a chat completion and which of them to call, also in OpenAI's older fields. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, WithJsonSchema

from pipelines.chat_interface import Tool, ToolUse
from server.api.shared.field_types import Lenient
from server.api.shared.tool_fields import MAX_TOOLS, NAME_TEXT, GivenTool, read_tools, refuse_type, tool_use
from server.api.wire import JsonObject
from server.errors import BadRequest

Choice: TypeAlias = Literal["auto", "none", "required"]

CHOICES: Mapping[str, Choice] = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
TOOLS = (
    f'a list of at most {MAX_TOOLS} tools like {{"type": "function", "function": {{"name": "NAME", "parameters": …}}}}'
)
CHOICE = (
    'auto, none, required, {"type": "function", "function": {"name": "NAME"}}, or {"type": "allowed_tools", '
    '"allowed_tools": {"mode": "auto", "tools": […]}}'
)
FUNCTIONS = f'a list of at most {MAX_TOOLS} functions like {{"name": "NAME", "parameters": …}}; the older form of tools'
FUNCTION_CALL = 'auto, none or {"name": "NAME"}; the older form of tool_choice'

FUNCTION_SCHEMA = {
    "title": "Function",
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "description": NAME_TEXT},
        "description": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "parameters": {"anyOf": [{"type": "object", "description": "JSON schema"}, {"type": "null"}]},
        "strict": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
}
TOOLS_SCHEMA = {
    "type": "array",
    "maxItems": MAX_TOOLS,
    "items": {
        "title": "ChatTool",
        "type": "object",
        "required": ["function"],
        "properties": {"type": {"type": "string", "enum": ["function"]}, "function": FUNCTION_SCHEMA},
    },
}
FUNCTIONS_SCHEMA = {"type": "array", "maxItems": MAX_TOOLS, "items": FUNCTION_SCHEMA}
NAMED_SCHEMA: JsonObject = {"title": "NamedFunction", "type": "object", "properties": {"name": {"type": "string"}}}
CHOICE_SCHEMA: JsonObject = {
    "title": "ToolChoice",
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["function", "allowed_tools"]},
        "function": NAMED_SCHEMA,
        "allowed_tools": {
            "title": "AllowedTools",
            "type": "object",
            "properties": {
                "mode": {"type": "string", "enum": ["auto", "required"]},
                "tools": {"type": "array", "items": {"type": "object"}},
            },
        },
    },
}


def _text_or(schema: JsonObject) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "string"}, schema]})


class ToolFields(Lenient):
    """The fields of a chat completion that concern tools."""

    tools: Annotated[list[Any], WithJsonSchema(TOOLS_SCHEMA)] | None = Field(None, description=TOOLS)
    tool_choice: Annotated[str | dict[str, Any], _text_or(CHOICE_SCHEMA)] | None = Field(None, description=CHOICE)
    parallel_tool_calls: bool | None = Field(
        None, description="true or false: whether one reply may have several calls"
    )
    functions: Annotated[list[Any], WithJsonSchema(FUNCTIONS_SCHEMA)] | None = Field(None, description=FUNCTIONS)
    function_call: Annotated[str | dict[str, Any], _text_or(NAMED_SCHEMA)] | None = Field(
        None, description=FUNCTION_CALL
    )


@dataclass(frozen=True, slots=True)
class ToolWish:
    use: ToolUse
    as_functions: bool = False  # the reply has its call in the older form
    warnings: tuple[str, ...] = ()


def read_tool_use(body: ToolFields) -> ToolWish:
    """Raises `BadRequest`."""
    if body.functions or body.function_call:
        if body.tools or body.tool_choice:
            raise BadRequest("tools and functions exclude each other: send tools and tool_choice.", param="functions")
        return _older_form(body)
    given = list(_functions(body.tools or []))
    use = _chosen(read_tools(given), body.tool_choice or "auto", parallel=body.parallel_tool_calls)
    return ToolWish(use, warnings=tuple(_warnings(body.tools or [], use)))


def _functions(tools: list[Any]) -> Iterator[GivenTool]:
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise BadRequest(f"{where} must be an object with a type and a function.", param="tools")
        if (kind := tool.get("type", "function")) != "function":
            refuse_type(where, kind)
        yield _function(tool.get("function"), f"{where}.function", "tools")


def _function(function: object, where: str, field: str) -> GivenTool:
    if not isinstance(function, dict):
        raise BadRequest(f"{where} must be an object with a name, a description and parameters.", param=field)
    return GivenTool(where, function.get("name"), function.get("description"), function.get("parameters"))


def _chosen(tools: tuple[Tool, ...], choice: str | dict[str, Any], *, parallel: bool | None) -> ToolUse:
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise _bad_choice()
        return tool_use(tools, CHOICES[choice], parallel=parallel)
    match choice.get("type", "function"):
        case "function":
            return tool_use(tools, named=_name_in(choice), parallel=parallel)
        case "allowed_tools":
            return _allowed(tools, choice.get("allowed_tools"), parallel=parallel)
        case str() as kind if kind in CHOICES:
            return tool_use(tools, CHOICES[kind], parallel=parallel)
    raise _bad_choice()


def _allowed(tools: tuple[Tool, ...], choice: object, *, parallel: bool | None) -> ToolUse:
    """Reads `{"mode": "auto", "tools": […]}`."""
    match choice:
        case {"tools": list() as allowed, **further} if (mode := further.get("mode", "auto")) in ("auto", "required"):
            names = [_name_in(tool) for tool in allowed]
            return tool_use(tools, mode, allowed=names, parallel=parallel)
    raise _bad_choice()


def _name_in(choice: object) -> str:
    """Returns the name of the function in `{"type": "function", "function": {"name"}}`."""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise _bad_choice()
    return name


def _bad_choice() -> BadRequest:
    return BadRequest(f"tool_choice must be {CHOICE}.", param="tool_choice")


def _warnings(tools: list[Any], use: ToolUse) -> Iterator[str]:
    if use.choice == "auto" and any(tool["function"].get("strict") for tool in tools):
        yield "strict: the arguments are made to follow their schema where tool_choice requires a call."


def _older_form(body: ToolFields) -> ToolWish:
    given = [
        _function(function, f"functions[{index}]", "functions") for index, function in enumerate(body.functions or ())
    ]
    functions, choice = read_tools(given, "functions"), body.function_call or "auto"
    if isinstance(choice, dict) and isinstance(choice.get("name"), str):
        use = tool_use(functions, named=choice["name"], parallel=False, field="function_call")
    elif choice in ("auto", "none"):
        use = tool_use(functions, "none" if choice == "none" else "auto", parallel=False, field="function_call")
    else:
        raise BadRequest(f"function_call must be {FUNCTION_CALL}.", param="function_call")
    return ToolWish(use, as_functions=True)
