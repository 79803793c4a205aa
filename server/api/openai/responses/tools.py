"""The tools of a response, which of them to call, and how their calls are shown. Pure functions.

A custom tool takes free text: the model sees a function of one text, `input`. The tools of a namespace are shown to the
model under the name of both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.chat_interface import Tool, ToolUse
from server.api.openai.chat_tools import CHOICES
from server.api.shared.tool_fields import MAX_TOOLS, GivenTool, read_tools, refuse_type, tool_use
from server.errors import BadRequest

TOOLS = f'a list of at most {MAX_TOOLS} tools like {{"type": "function", "name": "NAME", "parameters": …}}'
CHOICE = (
    'auto, none, required, {"type": "function", "name": "NAME"}, or {"type": "allowed_tools", "mode": "auto", '
    '"tools": […]}'
)
INPUT_SCHEMA = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
NAMED = ("function", "custom")  # types of tools that a choice may name


@dataclass(frozen=True, slots=True)
class Called:
    """What a call of a tool is to the client."""

    name: str
    namespace: str | None = None
    custom: bool = False  # it takes free text


@dataclass(frozen=True, slots=True)
class ToolWish:
    use: ToolUse = field(default_factory=ToolUse)
    called: Mapping[str, Called] = field(default_factory=dict)  # by the name that the model is shown
    warnings: tuple[str, ...] = ()


def shown_name(name: str, namespace: str | None) -> str:
    """Returns the name of a tool for the model."""
    return f"{namespace}__{name}" if namespace else name


def call_input(arguments: str) -> str:
    """Returns the free text that a custom tool is called with: `input`, or else the arguments as they are."""
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = read.get("input") if isinstance(read, dict) else None
    return text if isinstance(text, str) else arguments


def read_wish(tools: Sequence[Any] | None, choice: Any, *, parallel: bool | None) -> ToolWish:
    """Raises `BadRequest`."""
    given: list[GivenTool] = []
    called: dict[str, Called] = {}
    warnings: list[str] = []
    for index, tool in enumerate(tools or ()):
        for part, what in _given(tool, f"tools[{index}]", warnings):
            given.append(part)
            if isinstance(part.name, str):
                called[part.name] = what
    use = _chosen(read_tools(given), choice or "auto", parallel=parallel)
    if use.choice == "auto" and any(tool.get("strict") for tool in tools or ()):
        warnings.append("strict: the arguments are made to follow their schema where tool_choice requires a call.")
    return ToolWish(use, called, tuple(warnings))


def _given(tool: Any, where: str, warnings: list[str]) -> Iterator[tuple[GivenTool, Called]]:
    if not isinstance(tool, dict):
        raise BadRequest(f"{where} must be an object with a type and a name.", param="tools")
    match tool.get("type", "function"):
        case "function":
            yield _function(tool, where)
        case "custom":
            yield _custom(tool, where, warnings)
        case "namespace":
            yield from _namespace(tool, where)
        case "web_search" if tool.get("external_web_access") is False:
            warnings.append("tools: web_search was left out, as this server does not search the web.")
        case kind:
            refuse_type(where, kind)


def _function(tool: Mapping[str, Any], where: str, namespace: str | None = None) -> tuple[GivenTool, Called]:
    """Reads the flat form, or that of chat completions, which some clients send here too."""
    inner = tool.get("function") if "name" not in tool else None
    if isinstance(inner, dict):
        tool, where = inner, f"{where}.function"
    name = tool.get("name")
    shown = shown_name(name, namespace) if isinstance(name, str) else name
    given = GivenTool(where, shown, tool.get("description"), tool.get("parameters"))
    return given, Called(str(name), namespace)


def _custom(tool: Mapping[str, Any], where: str, warnings: list[str]) -> tuple[GivenTool, Called]:
    description, form = tool.get("description"), tool.get("format")
    if isinstance(form, dict) and form.get("type", "text") != "text":
        definition = form.get("definition")
        if not isinstance(definition, str):
            raise BadRequest(f"{where}.format.definition must be text.", param="tools")
        if description is None or isinstance(description, str):
            description = f"{description or ''}\n\nThe input follows this grammar:\n\n{definition}".strip()
        warnings.append("tools: the grammar of a custom tool is shown to the model, but its input is not held to it.")
    return GivenTool(where, tool.get("name"), description, INPUT_SCHEMA), Called(str(tool.get("name")), custom=True)


def _namespace(tool: Mapping[str, Any], where: str) -> Iterator[tuple[GivenTool, Called]]:
    name, inner = tool.get("name"), tool.get("tools")
    if not isinstance(name, str) or not isinstance(inner, list):
        raise BadRequest(f"{where} must be an object with the name of the namespace and its tools.", param="tools")
    for index, function in enumerate(inner):
        place = f"{where}.tools[{index}]"
        if not isinstance(function, dict):
            raise BadRequest(f"{place} must be an object with a type and a name.", param="tools")
        if (kind := function.get("type", "function")) != "function":
            refuse_type(place, kind)
        yield _function(function, place, name)


def _chosen(tools: tuple[Tool, ...], choice: Any, *, parallel: bool | None) -> ToolUse:
    if isinstance(choice, str) and choice in CHOICES:
        return tool_use(tools, CHOICES[choice], parallel=parallel)
    if not isinstance(choice, dict):
        raise _bad_choice()
    kind = choice.get("type", "function")
    if kind == "allowed_tools":
        nested = choice.get("allowed_tools")  # as in chat completions
        inner = nested if isinstance(nested, dict) else choice
        allowed, mode = inner.get("tools"), inner.get("mode", "auto")
        if not isinstance(allowed, list) or mode not in ("auto", "required"):
            raise _bad_choice()
        return tool_use(tools, mode, allowed=[_name_in(tool) for tool in allowed], parallel=parallel)
    if isinstance(kind, str) and kind in CHOICES:
        return tool_use(tools, CHOICES[kind], parallel=parallel)
    return tool_use(tools, named=_name_in(choice), parallel=parallel)


def _name_in(choice: Any) -> str:
    """Returns the name in {"type": "function", "name"}, or in the form of chat completions."""
    if not isinstance(choice, dict):
        raise _bad_choice()
    kind = choice.get("type", "function")
    if not isinstance(kind, str) or kind not in NAMED:
        refuse_type("tool_choice", kind, "tool_choice")
    inner = choice.get(kind)
    name, namespace = (inner if isinstance(inner, dict) else choice).get("name"), choice.get("namespace")
    if not isinstance(name, str):
        raise _bad_choice()
    return shown_name(name, namespace if isinstance(namespace, str) else None)


def _bad_choice() -> BadRequest:
    return BadRequest(f"tool_choice must be {CHOICE}.", param="tool_choice")
