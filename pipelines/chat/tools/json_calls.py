"""Reads calls that are JSON objects, alone or in a list: {"name": …, "arguments": {…}}. Any thread; no torch."""

from __future__ import annotations

import json

from pipelines.chat.tools.call_source import (
    Arguments,
    Begin,
    End,
    NotACall,
    Source,
    Steps,
    accept,
    expect,
    peek,
    skip_white,
)
from pipelines.chat.tools.json_text import JsonText, NotJson, json_object
from pipelines.chat_interface import Tool

NAMES = ("name", "tool_name", "function", "function_name")
ARGUMENTS = ("arguments", "parameters", "args")
IDS = ("id", "call_id", "tool_call_id")
TYPES = ("type", *IDS)  # what else an object may have that is a call without markup around it
NONE = "{}"
WRAPPED = "function"  # {"type": "function", "function": {"name": …, "arguments": {…}}}


def json_calls(source: Source, *, alone: bool = False, separators: str = ",;") -> Steps[None]:
    """Read a list of calls, or calls one after the other.

    alone: no markup says that this is a call, so that it must look like nothing else.
    """
    is_list = (yield from accept(source, "[")) != ""
    yield from skip_white(source)
    yield from _call(source, alone)
    while True:
        following = yield from skip_white(source)
        if following and following in separators:
            source.at += 1
            following = yield from skip_white(source)
        if following != "{":
            break
        yield from _call(source, alone)
    source.unread()
    if is_list:
        yield from skip_white(source)
        yield from expect(source, "]")
        source.keep()


def arguments(source: Source, tool: Tool, call_id: str = "") -> Steps[None]:
    """Read the arguments of a call, from its beginning to its end. They are passed on as they come.

    A text with the JSON in it is read too, and null. Raises `NotACall` when it is anything else.
    """
    first = yield from skip_white(source)
    if first != "{":
        yield from whole_call(source, tool, _object((yield from json_value(source))), call_id)
        return
    yield Begin(tool, call_id)
    value = JsonText()
    while True:
        try:
            text, source.at = value.read(source.text, source.at, ended=source.ended)
        except NotJson as error:
            text, source.at = error.args
            source.keep()
            yield Arguments(text)
            raise NotACall from None
        source.keep()
        if text:
            yield Arguments(text)
        if value.complete:
            break
        if source.ended:
            raise NotACall
        yield None
    yield End()


def whole_call(source: Source, tool: Tool, text: str, call_id: str = "") -> Steps[None]:
    """Pass on a call whose arguments are known."""
    source.keep()
    yield Begin(tool, call_id)
    yield Arguments(text)
    yield End()


def _call(source: Source, alone: bool) -> Steps[None]:
    """Read one call. Behind its arguments, what does not fit is left to be read as text."""
    yield from expect(source, "{")
    tool: Tool | None = None
    call_id, waiting, is_done = "", "", False
    is_first = True
    while True:
        following = yield from skip_white(source)
        if following == "}" and not (is_first and alone):
            source.at += 1
            break
        if not is_first:
            yield from expect(source, ",")
            yield from skip_white(source)
        is_first = False
        key = yield from _string(source)
        yield from skip_white(source)
        yield from expect(source, ":")
        following = yield from skip_white(source)
        if key == WRAPPED and following == "{" and not is_done:
            yield from _call(source, alone)
            is_done = True
        elif key in NAMES and tool is None and not is_done:
            start = source.at
            name = yield from _string(source)
            try:
                tool = source.tool(name)
            except NotACall:
                source.at = start
                raise
        elif key in ARGUMENTS and not is_done and not waiting:
            if tool is None:
                waiting = yield from json_value(source)
            else:
                yield from arguments(source, tool, call_id)
                is_done = True
        elif key in IDS and not is_done:
            call_id = (yield from json_value(source)).strip('"')
        elif alone and not is_done and key not in TYPES:
            raise NotACall
        else:
            yield from json_value(source)
        if is_done:
            source.keep()
    if is_done:
        source.keep()
    elif tool is None or (alone and not waiting):
        raise NotACall
    else:
        yield from whole_call(source, tool, _object(waiting or NONE), call_id)


def _object(text: str) -> str:
    """Return arguments as the JSON of an object. Models also write null, and the JSON of an object as a text."""
    if text == "null":
        return NONE
    if json_object(text) is not None:
        return text
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):  # such as a number of 5000 digits
        raise NotACall from None
    if not isinstance(inner, str) or json_object(inner) is None:
        raise NotACall
    return inner


def _string(source: Source) -> Steps[str]:
    if (yield from peek(source)) != '"':
        raise NotACall
    return str(json.loads((yield from json_value(source))))


def json_value(source: Source) -> Steps[str]:
    """Read a whole value, and return it as JSON."""
    value, texts = JsonText(), []
    place = source.at
    while True:
        try:
            text, place = value.read(source.text, place, ended=source.ended)
        except NotJson as error:
            source.at = error.args[1]
            raise NotACall from None
        texts.append(text)
        if value.complete:
            source.at = place
            return "".join(texts)
        if source.ended:
            raise NotACall
        yield None
