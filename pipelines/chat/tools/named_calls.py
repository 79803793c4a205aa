"""Reads calls whose name stands in markup before JSON: Mistral, DeepSeek, Kimi, gpt-oss. Any thread; no torch."""

from __future__ import annotations

import re

from pipelines.chat.tools.call_source import (
    MAX_NAME,
    NotACall,
    Source,
    Steps,
    accept,
    close,
    name_until,
    skip_white,
    until,
)
from pipelines.chat.tools.json_calls import arguments, json_calls

ARGS, CALL_ID = "[ARGS]", "[CALL_ID]"
CALL, SEP, CALL_END, CALLS_END = (
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)
KIMI_CALL, KIMI_ARGUMENTS = "<|tool_call_begin|>", "<|tool_call_argument_begin|>"
KIMI_END, KIMI_ALL_END = "<|tool_call_end|>", "<|tool_calls_section_end|>"
FENCE = "```"
_RECIPIENT = re.compile(r"(?:functions\.)?([^\s<]+)")


def mistral_calls(source: Source) -> Steps[None]:
    """[TOOL_CALLS] [{"name": …}], or as of version 11 [TOOL_CALLS]name[ARGS]{…}, once for each call."""
    first = yield from skip_white(source)
    if first in ("[", "{"):
        yield from json_calls(source)
        return
    tool, end = yield from name_until(source, ARGS, CALL_ID, "{")
    call_id = ""
    if end == CALL_ID:
        call_id = (yield from until(source, (ARGS,), MAX_NAME))[0].strip()
    elif end == "{":
        source.at -= 1
    yield from arguments(source, tool, call_id)


def deepseek_calls(source: Source) -> Steps[None]:
    """V3 and R1: function<｜tool▁sep｜>name, and the arguments in a fence of Markdown. V3.1: name<｜tool▁sep｜>{…}."""
    yield from skip_white(source)
    yield from accept(source, CALL)
    while True:
        start = source.at
        name, _ = yield from until(source, (SEP,), MAX_NAME)
        if (yield from skip_white(source)) == "{":
            tool = source.tool(name.strip(), start)
        else:
            tool, _ = yield from name_until(source, "\n", FENCE)
            yield from skip_white(source)
            yield from accept(source, FENCE + "json", FENCE, "json")
        yield from arguments(source, tool)
        yield from close(source, FENCE)
        yield from close(source, CALL_END)
        yield from skip_white(source)
        if not (yield from accept(source, CALL)):
            break
    yield from close(source, CALLS_END)


def kimi_calls(source: Source) -> Steps[None]:
    """<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>, once for each call."""
    yield from skip_white(source)
    yield from accept(source, KIMI_CALL)
    while True:
        start = source.at
        text, _ = yield from until(source, (KIMI_ARGUMENTS,), MAX_NAME)
        name, colon, number = text.strip().rpartition(":")
        tool = source.tool(name if colon and number.isdigit() else text.strip(), start)
        yield from arguments(source, tool)
        yield from close(source, KIMI_END)
        yield from skip_white(source)
        if not (yield from accept(source, KIMI_CALL)):
            break
    yield from close(source, KIMI_ALL_END)


def harmony_call(source: Source) -> Steps[None]:
    """to=functions.name<|message|>{…}<|call|>. What else the header has stands before or behind the recipient."""
    start = source.at
    header, _ = yield from until(source, ("<|message|>",), 2 * MAX_NAME)
    match = _RECIPIENT.match(header)
    if match is None:
        source.at = start
        raise NotACall
    tool = source.tool(match[1], start)
    yield from arguments(source, tool)
    yield from close(source, "<|call|>")


def fenced_call(source: Source) -> Steps[None]:
    """Calls that are JSON in a fence of Markdown, behind its first line."""
    if (yield from skip_white(source)) not in ("[", "{"):
        raise NotACall
    yield from json_calls(source, alone=True)
    yield from close(source, FENCE)
