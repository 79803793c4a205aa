"""Checks the tools of a request, and which of them a reply may or must call. All dialects of the API share it.

A dialect takes its own JSON apart, hands over the parts with their places in the body, and gets `ToolUse`. Every fault
is a 400 that names the place, such as tools[2].function.parameters, and what must be there. Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NoReturn

from pipelines.chat_interface import Tool, ToolUse
from server.api.shared.client_json import MAX_DEPTH, READABLE, SHOWN_TYPE, UNREADABLE, nested_deeper, texts_in
from server.errors import BadRequest

MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 256 * 1024  # of all schemas together, as JSON
MAX_DESCRIPTION = 32_768  # characters
# Dots, colons and slashes part the name of a server from that of its tool in several clients. OpenAI's limit is 64
# characters, Anthropic's 128.
NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
NAME_TEXT = "1 to 128 letters, digits, _, -, ., : or /"
SCHEMA_TEXT = 'a JSON schema like {"type": "object", "properties": {}}'


@dataclass(frozen=True, slots=True)
class GivenTool:
    """A tool as a client sent it: the values are any JSON, or None where they are missing."""

    where: str  # the place of the object that has the name, such as "tools[0].function"
    name: object
    description: object
    parameters: object
    schema_name: str = "parameters"  # what the dialect calls the field of the schema


def read_tools(given: Sequence[GivenTool], field: str = "tools") -> tuple[Tool, ...]:
    """field: of the body, for errors. Raises `BadRequest`."""
    if len(given) > MAX_TOOLS:
        _refuse(field, f"a list of at most {MAX_TOOLS} tools", field)
    tools: dict[str, Tool] = {}
    schema_bytes = 0
    for tool in given:
        name = _name(tool, field)
        if name in tools:
            _refuse(f"{tool.where}.name", "another name than those of the other tools", field)
        parameters = _parameters(tool, field)
        schema_bytes += len(json.dumps(parameters, ensure_ascii=False).encode()) if parameters else 0
        if schema_bytes > MAX_SCHEMA_BYTES:
            _refuse(field, f"tools whose schemas have at most {MAX_SCHEMA_BYTES} bytes together", field)
        tools[name] = Tool(name, _description(tool, field), parameters)
    return tuple(tools.values())


def tool_use(
    tools: tuple[Tool, ...],
    choice: Literal["auto", "none", "required"] = "auto",
    *,
    named: object = None,
    allowed: Collection[object] | None = None,
    parallel: bool | None = None,
    field: str = "tool_choice",
) -> ToolUse:
    """named: the one tool that must be called, whatever `choice` is. allowed: the only ones that may be called, so that
    the model is shown no others; None: all. parallel: whether a reply may have several calls; None: unless a tool is
    named, as the caller of a named tool looks for one call. field: of the body that has the choice, for errors. Raises
    `BadRequest`.
    """
    parallel = named is None if parallel is None else parallel
    use = ToolUse(tools=tools, choice=choice, parallel=parallel)
    known = {tool.name for tool in tools}
    for name in ([] if named is None else [named]) + list(allowed or ()):
        if not isinstance(name, str) or name not in known:
            raise BadRequest(f"{field} must name one of the tools of this request.", param=field)
    if allowed is not None:
        use = replace(use, tools=tuple(tool for tool in tools if tool.name in allowed))
    if isinstance(named, str):
        use = replace(use, choice="required", name=named)
    if use.choice == "required" and not use.tools:
        raise BadRequest(f"{field} requires a call, so that at least one tool must be given.", param=field)
    return use


def refuse_type(where: str, kind: object, field: str = "tools") -> NoReturn:
    """Refuses a tool of a type that this server does not run, such as a search of the web, by its type."""
    if not isinstance(kind, str):
        _refuse(f"{where}.type", "text", field)
    shown = f" of the type {kind}" if SHOWN_TYPE.fullmatch(kind) else " of this type"
    raise BadRequest(f"{where}: a tool{shown} is not supported here. Send tools of the type function.", param=field)


def _name(tool: GivenTool, field: str) -> str:
    if not isinstance(tool.name, str) or not NAME.fullmatch(tool.name):
        _refuse(f"{tool.where}.name", NAME_TEXT, field)
    return tool.name


def _description(tool: GivenTool, field: str) -> str:
    description = "" if tool.description is None else tool.description
    where = f"{tool.where}.description"
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION:
        _refuse(where, f"text of at most {MAX_DESCRIPTION} characters", field)
    if UNREADABLE.search(description):
        _refuse(where, READABLE, field)
    return description


def _parameters(tool: GivenTool, field: str) -> dict[str, object]:
    """Returns the schema of the arguments; a tool without one has none."""
    schema = {} if tool.parameters is None else tool.parameters
    where = f"{tool.where}.{tool.schema_name}"
    if not isinstance(schema, dict) or not _of_an_object(schema):
        _refuse(where, SCHEMA_TEXT, field)
    if nested_deeper(schema, MAX_DEPTH):
        _refuse(where, f"nested at most {MAX_DEPTH} levels deep", field)
    if any(map(UNREADABLE.search, texts_in(schema))):
        _refuse(where, f"a JSON schema of {READABLE}", field)
    return schema


def _of_an_object(schema: dict[str, object]) -> bool:
    kind = schema.get("type")
    of_an_object = kind is None or kind == "object" or (isinstance(kind, list) and "object" in kind)
    return of_an_object and isinstance(schema.get("properties", {}), dict)


def _refuse(where: str, must_be: str, field: str) -> NoReturn:
    raise BadRequest(f"{where} must be {must_be}.", param=field)
