"""Reads calls as FunctionGemma and Gemma 4 write them: call:name{key:<|"|>text<|"|>,other:3}. Any thread; no torch."""

from __future__ import annotations

import json

from pipelines.chat.tools.call_source import (
    MAX_NAME,
    Arguments,
    Begin,
    End,
    NotACall,
    Source,
    Steps,
    accept,
    expect,
    name_until,
    skip_white,
    until,
)
from pipelines.chat.tools.json_calls import json_value
from pipelines.chat.tools.json_text import MAX_DEPTH
from pipelines.chat.tools.tagged_calls import text_value
from pipelines.chat.tools.typed_values import STRING, typed_json, types_of

QUOTES = ("<escape>", '<|"|>')  # of FunctionGemma and Gemma 4
_PLAIN_ENDS = (",", "}", "]")


def gemma_call(source: Source) -> Steps[None]:
    yield from skip_white(source)
    yield from accept(source, "call:")
    tool, _ = yield from name_until(source, "{")
    source.keep()
    yield Begin(tool)
    yield Arguments("{")
    separator = ""
    while (yield from skip_white(source)) != "}":
        if separator:
            yield from expect(source, ",")
            yield from skip_white(source)
        key = yield from _key(source)
        source.keep()
        yield Arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        types = types_of(tool, key)
        quote = (yield from accept(source, *QUOTES)) if types == STRING else ""
        if quote:
            source.keep()
            yield from text_value(source, types, quote)
        else:
            text = yield from _value(source, types, MAX_DEPTH)
            source.keep()
            yield Arguments(text)
    source.at += 1
    source.keep()
    yield Arguments("}")
    yield End()


def _key(source: Source) -> Steps[str]:
    quote = yield from accept(source, '"', *QUOTES)
    if not quote:
        return (yield from until(source, (":",), MAX_NAME))[0].strip()
    key, _ = yield from until(source, (quote,), MAX_NAME)
    yield from skip_white(source)
    yield from expect(source, ":")
    return key


def _value(source: Source, types: frozenset[str], n_left: int) -> Steps[str]:
    """Read a value, and return it as JSON. n_left: how many more lists and objects it may be in."""
    first = yield from skip_white(source)
    if not first or not n_left:
        raise NotACall
    if first == '"':
        return (yield from json_value(source))
    quote = yield from accept(source, *QUOTES)
    if quote:
        return json.dumps((yield from until(source, (quote,)))[0], ensure_ascii=False)
    if first not in "{[":
        text, end = yield from until(source, _PLAIN_ENDS)
        source.at -= len(end)
        return typed_json(text, types)
    source.at += 1
    close = "}" if first == "{" else "]"
    parts: list[str] = []
    while (yield from skip_white(source)) != close:
        if parts:
            yield from expect(source, ",")
            yield from skip_white(source)
        key = json.dumps((yield from _key(source)), ensure_ascii=False) + ": " if first == "{" else ""
        parts.append(key + (yield from _value(source, frozenset(), n_left - 1)))
    source.at += 1
    return first + ", ".join(parts) + close
