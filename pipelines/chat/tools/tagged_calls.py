"""Reads calls with markup around each argument, as Qwen 3 Coder, GLM and MiniMax write them. Any thread; no torch.

    <function=name> <parameter=key>value</parameter> </function>
    <invoke name="name"> <parameter name="key">value</parameter> </invoke>
    name <arg_key>key</arg_key> <arg_value>value</arg_value> </tool_call>

A value is text. The tool's schema says which type it has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.chat.replies.markup import n_partial
from pipelines.chat.tools.call_source import (
    MAX_NAME,
    Arguments,
    Begin,
    End,
    NotACall,
    Source,
    Steps,
    accept,
    close,
    expect,
    name_until,
    skip_white,
    until,
)
from pipelines.chat.tools.json_calls import arguments
from pipelines.chat.tools.typed_values import STRING, typed_json, types_of
from pipelines.chat_interface import Tool


@dataclass(frozen=True, slots=True)
class Markup:
    names: Sequence[str]  # what ends a name
    close: str  # the end of a call
    key: tuple[str, str]  # around a key; the first word between them counts
    value: tuple[str, str]  # around a value


FUNCTION = Markup((">",), "</function>", ("<parameter=", ">"), ("", "</parameter>"))
INVOKE = Markup((">",), "</invoke>", ("<parameter name=", ">"), ("", "</parameter>"))
DEEPSEEK = Markup(
    (">",), "</｜DSML｜invoke>", ("<｜DSML｜parameter name=", ">"), ("", "</｜DSML｜parameter>")
)  # of version 3.2
GLM = Markup(
    ("\n", "<arg_key>", "</tool_call>"), "</tool_call>", ("<arg_key>", "</arg_key>"), ("<arg_value>", "</arg_value>")
)


def tagged_call(source: Source, markup: Markup) -> Steps[None]:
    """Read one call from its name on. JSON in place of all arguments is read too."""
    tool, end = yield from name_until(source, *markup.names)
    if end != ">":  # it is the first key, or the end of a call without arguments
        source.at -= len(end)
    following = yield from skip_white(source)
    if following != "{":
        yield from _arguments(source, tool, markup)
    else:
        yield from arguments(source, tool)
        yield from close(source, markup.close)


def _arguments(source: Source, tool: Tool, markup: Markup) -> Steps[None]:
    found = yield from expect(source, markup.key[0], markup.close)
    source.keep()
    yield Begin(tool)
    yield Arguments("{")
    separator = ""
    while found == markup.key[0]:
        header, _ = yield from until(source, (markup.key[1],), MAX_NAME)
        key, _, attribute = header.strip().partition(" string=")
        key = key.strip("\"'")
        types = types_of(tool, key) or (STRING if "true" in attribute else frozenset())
        yield from _white_before(source, markup.value[0])
        source.keep()
        yield Arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        yield from text_value(source, types, markup.value[1])
        separator = ", "
        yield from skip_white(source)
        found = yield from accept(source, markup.key[0], markup.close)
    source.keep()
    yield Arguments("}")
    yield End()


def _white_before(source: Source, opening: str) -> Steps[None]:
    if opening:
        yield from skip_white(source)
        yield from expect(source, opening)


def text_value(source: Source, types: frozenset[str], end: str) -> Steps[None]:
    """Read a value up to its end and over it. Strings are passed on as they come; one line break around them is not.

    A value that the end of the reply cuts off is passed on as far as it came.
    """
    is_string = types == STRING
    text, begun = "", False
    if is_string:
        yield Arguments('"')
    while True:
        text += source.text[source.at :]
        source.at = len(source.text)
        source.keep()
        if not begun and text:
            begun, text = True, text.removeprefix("\n") if is_string else text
        place = text.find(end)
        if place >= 0:
            source.at -= len(text) - place - len(end)
            source.keep()
            text = text[:place].removesuffix("\n")
            break
        n_sure = len(text) - n_partial(text, end)
        n_sure -= text[:n_sure].endswith("\n")
        if source.ended:
            yield Arguments(_escaped(text[:n_sure]) if is_string else text[:n_sure].strip())
            raise NotACall
        if is_string and n_sure:
            sure, text = text[:n_sure], text[n_sure:]
            yield Arguments(_escaped(sure))
        yield None
    yield Arguments(_escaped(text) + '"' if is_string else typed_json(text, types))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
