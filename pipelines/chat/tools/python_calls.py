"""Reads calls as Python writes them: [name(key="text", other=[1, True])]. Any thread; no torch.

Llama 4, LFM2 and OLMo 3 write them so. Values are literals; they become JSON.
"""

from __future__ import annotations

import ast
import json
import re

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
    peek,
    skip_white,
    until,
)
from pipelines.chat.tools.json_text import MAX_DEPTH

_WORD = re.compile(r"[-+.\w]*")
_KEY = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_CONSTANTS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_CLOSINGS = {"[": "]", "(": ")", "{": "}"}
_MAX_DIGITS = 300  # of a number


def python_calls(source: Source) -> Steps[None]:
    """Read a list of calls, or calls one after the other."""
    is_list = (yield from accept(source, "[")) != ""
    yield from skip_white(source)
    yield from _call(source)
    while True:
        following = yield from skip_white(source)
        if following == ",":
            source.at += 1
            following = yield from skip_white(source)
        if not (following.isalpha() or following == "_"):
            break
        try:
            yield from _call(source)
        except NotACall:
            if is_list:
                raise
            break  # it is text
    source.unread()
    if is_list:
        yield from skip_white(source)
        yield from expect(source, "]")
        source.keep()


def _call(source: Source) -> Steps[None]:
    tool, _ = yield from name_until(source, "(")
    yield from skip_white(source)
    following = yield from peek(source)
    key = "" if following == ")" else (yield from _key(source))
    source.keep()
    yield Begin(tool)
    yield Arguments("{")
    separator = ""
    while key:
        text = yield from _value(source, MAX_DEPTH)
        source.keep()
        yield Arguments(f"{separator}{json.dumps(key)}: {text}")
        separator = ", "
        yield from skip_white(source)
        key = ""
        if (yield from accept(source, ",")) and (yield from skip_white(source)) != ")":
            key = yield from _key(source)
    yield from expect(source, ")")
    source.keep()
    yield Arguments("}")
    yield End()


def _key(source: Source) -> Steps[str]:
    start = source.at
    key = (yield from until(source, ("=",), MAX_NAME))[0].strip()
    if not _KEY.fullmatch(key):
        source.at = start
        raise NotACall
    return key


def _value(source: Source, n_left: int) -> Steps[str]:
    """Read a literal, and return it as JSON. n_left: how many more lists and objects it may be in."""
    first = yield from skip_white(source)
    if not first or not n_left:
        raise NotACall
    if first in "\"'":
        return json.dumps((yield from _string(source)), ensure_ascii=False)
    if first not in _CLOSINGS:
        return (yield from _scalar(source))
    source.at += 1
    close = _CLOSINGS[first]
    parts: list[str] = []
    while (yield from skip_white(source)) != close:
        if parts:
            yield from expect(source, ",")
            if (yield from skip_white(source)) == close:
                break
        part = yield from _value(source, n_left - 1)
        if first == "{":
            yield from skip_white(source)
            yield from expect(source, ":")
            key = part if part.startswith('"') else json.dumps(part)
            part = f"{key}: {(yield from _value(source, n_left - 1))}"
        parts.append(part)
    source.at += 1
    joined = ", ".join(parts)
    return f"{{{joined}}}" if first == "{" else f"[{joined}]"


def _string(source: Source) -> Steps[str]:
    quote = yield from accept(source, '"""', "'''", '"', "'")
    place = source.at
    while True:
        place = source.text.find(quote, place)
        if place < 0:
            if source.ended:
                raise NotACall
            place = max(source.at, len(source.text) - len(quote))
            yield None
            continue
        body = source.text[source.at : place]
        n_backslashes = len(body) - len(body.rstrip("\\"))
        if n_backslashes % 2 == 0:
            break
        place += 1
    source.at = place + len(quote)
    if "\\" not in body:
        return body
    try:  # a string literal, nothing else: `ast` decodes its escapes
        literal = ast.literal_eval(
            "'''" + re.sub(r"(\\.)|'", lambda match: match[1] or "\\'", body, flags=re.DOTALL) + "'''"
        )
    except (ValueError, SyntaxError):
        return body
    return str(literal)


def _scalar(source: Source) -> Steps[str]:
    start = source.at
    place = start
    while True:
        match = _WORD.match(source.text, place)
        assert match is not None
        place = match.end()
        if place < len(source.text) or source.ended or place - start > _MAX_DIGITS:
            break
        yield None
    text = source.text[start:place]
    if text in _CONSTANTS:
        source.at = place
        return _CONSTANTS[text]
    if len(text) > _MAX_DIGITS or not _NUMBER.fullmatch(text):
        raise NotACall
    source.at = place
    try:
        value = ast.literal_eval(text.lstrip("+"))
    except (ValueError, SyntaxError):  # such as 007
        return json.dumps(text)
    return text if value in (float("inf"), float("-inf")) else json.dumps(value)
