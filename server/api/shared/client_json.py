"""Limits of the JSON that clients bring along inside a request, such as schemas and arguments. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NoReturn

from server.errors import BadRequest

MAX_DEPTH = 32  # levels of lists and objects in a client's own JSON, far below what Python's recursion bears
UNREADABLE = re.compile("[\x00\ud800-\udfff]")  # no tokenizer takes half a surrogate pair, no template a NUL
READABLE = "text without NUL characters and halves of surrogate pairs"
SHOWN_TYPE = re.compile(r"[a-z][a-z0-9_-]{0,39}")  # a type that an error may repeat


def readable(text: str, where: str) -> str:
    """Returns the text that stands at this place of the body. Raises `BadRequest`."""
    if UNREADABLE.search(text):
        refuse(where, READABLE)
    return text


def refuse(where: str, must_be: str) -> NoReturn:
    """where: a place such as messages[2].content; its first name is the field at fault."""
    raise BadRequest(f"{where} must be {must_be}.", param=re.split(r"[.\[]", where)[0])


def nested_deeper(value: object, levels: int) -> bool:
    """Whether lists and objects lie more than `levels` deep in each other."""
    if not isinstance(value, list | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(nested_deeper(item, levels - 1) for item in inner)


def texts_in(value: object) -> Iterator[str]:
    """Yields all texts in a JSON value, also the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value:
            yield from texts_in(item)
        if isinstance(value, dict):
            yield from texts_in(list(value.values()))


def readable_text(value: object, where: str) -> str:
    """Returns a text, which is empty where there is none. Raises `BadRequest` with its place."""
    if value is None:
        return ""
    if not isinstance(value, str):
        refuse(where, "text")
    return readable(value, where)


def arguments_text(arguments: object, where: str) -> str:
    """Returns the arguments of a call as JSON: most clients send that, some the object itself. Raises `BadRequest`."""
    if arguments is None:
        return "{}"
    if nested_deeper(arguments, MAX_DEPTH):
        refuse(where, f"nested at most {MAX_DEPTH} levels deep")
    return readable(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False), where)
