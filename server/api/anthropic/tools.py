"""The tools of Anthropic's requests, and which of them a reply may or must call. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pipelines.chat_interface import ToolUse
from server.api.shared.client_json import SHOWN_TYPE, refuse
from server.api.shared.tool_fields import MAX_TOOLS, NAME_TEXT, SCHEMA_TEXT, GivenTool, read_tools, tool_use
from server.errors import BadRequest

TOOLS = f'a list of at most {MAX_TOOLS} tools like {{"name": "NAME", "description": "…", "input_schema": …}}'
CHOICE = 'an object like {"type": "auto"}: auto, any, none, or tool with the name of the tool'
CHOICES: Mapping[str, Literal["auto", "none", "required"]] = {
    "auto": "auto", "any": "required", "none": "none", "tool": "required",
}  # fmt: skip
MAX_EXAMPLES = 16

TOOLS_SCHEMA = {
    "type": "array",
    "maxItems": MAX_TOOLS,
    "description": TOOLS,
    "items": {
        "title": "AnthropicTool",
        "type": "object",
        "required": ["name", "input_schema"],
        "properties": {
            "type": {"anyOf": [{"type": "string", "enum": ["custom"]}, {"type": "null"}]},
            "name": {"type": "string", "description": NAME_TEXT},
            "description": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "input_schema": {"type": "object", "description": SCHEMA_TEXT},
            "input_examples": {"type": "array", "maxItems": MAX_EXAMPLES, "items": {"type": "object"}},
            "defer_loading": {"type": "boolean"},
            "strict": {"type": "boolean"},
        },
    },
}
CHOICE_SCHEMA = {
    "title": "AnthropicToolChoice",
    "type": "object",
    "description": CHOICE,
    "properties": {
        "type": {"type": "string", "enum": list(CHOICES)},
        "name": {"type": "string"},
        "disable_parallel_tool_use": {"type": "boolean"},
    },
}


def read_tool_use(tools: list[Any], choice: Mapping[str, Any] | None, changes: Mapping[str, bool]) -> ToolUse:
    """changes: by the name of a tool, whether the conversation has added or removed it. Raises `BadRequest`."""
    choice = choice or {"type": "auto"}
    kind, named = choice.get("type"), choice.get("name", "")
    if not isinstance(kind, str) or kind not in CHOICES:
        raise BadRequest(f"tool_choice must be {CHOICE}.", param="tool_choice")
    if kind == "tool" and isinstance(named, str):
        changes = {**changes, named: True}
    disabled = choice.get("disable_parallel_tool_use")
    return tool_use(
        read_tools(list(_given(tools, changes))),
        CHOICES[kind],
        named=named if kind == "tool" else None,
        parallel=None if disabled is None else not disabled,
    )


def _given(tools: list[Any], changes: Mapping[str, bool]) -> Iterator[GivenTool]:
    """Yields the tools that the model sees: a deferred one is left out until the conversation has added it."""
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, dict):
            refuse(where, "an object with a name and an input_schema")
        if (kind := tool.get("type")) not in (None, "custom"):
            _refuse_type(kind, where)
        callers = tool.get("allowed_callers")
        if isinstance(callers, list) and callers and "direct" not in callers:
            raise BadRequest(
                f"{where}.allowed_callers: tools are called by the model alone. Add direct.", param="tools"
            )
        if "input_schema" not in tool:
            refuse(f"{where}.input_schema", SCHEMA_TEXT)
        name, offered = tool.get("name"), not tool.get("defer_loading")
        if changes.get(name, offered) if isinstance(name, str) else offered:
            yield GivenTool(where, name, tool.get("description"), _schema(tool, where), "input_schema")


def _schema(tool: Mapping[str, Any], where: str) -> object:
    """Returns the schema of the arguments, with the examples that the model shall see."""
    schema, examples = tool["input_schema"], tool.get("input_examples")
    if not examples or not isinstance(schema, dict):
        return schema
    if not isinstance(examples, list) or len(examples) > MAX_EXAMPLES:
        refuse(f"{where}.input_examples", f"a list of at most {MAX_EXAMPLES} objects")
    return {**schema, "examples": examples}


def _refuse_type(kind: object, where: str) -> None:
    """Refuses the tools that Anthropic's servers run, and those that only its own models know, by their type."""
    shown = f" of the type {kind}" if isinstance(kind, str) and SHOWN_TYPE.fullmatch(kind) else " of this type"
    hint = "Describe it by a name and an input_schema" if _client_runs(kind) else "Leave it out"
    raise BadRequest(f"{where}: a tool{shown} is not supported here. {hint}.", param="tools")


def _client_runs(kind: object) -> bool:
    """Whether the client runs the tool itself, so that it could describe it."""
    return isinstance(kind, str) and re.match(r"(bash|text_editor|computer|memory)_", kind) is not None
