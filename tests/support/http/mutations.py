"""Mutates JSON as clients with bugs do: something is missing, null, of another type, deep, twice, huge or odd text."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, TypeAlias

import httpx

Place: TypeAlias = tuple[Any, Any]  # a list or object, and an index or key in it

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 0.5, -1.5, 1e308, 10**30, -(10**30), 2**63, "", "0", "text", "\n", [], {},
    [None], [[]], {"type": "text"}, {"": None},
]  # fmt: skip
TEXTS = [
    "\0", "\ud800", "\udc00\ud800", "\ufeffx", "\u202eabc", "👩‍👩‍👧", "e\u0301" * 50, "<|im_end|>", "{{ x }}",
    "{% raw %}", "\x7f", "\u2028", "x" * 100_000, "[INST]", "__class__",
]  # fmt: skip
NAMES = ["", "messages", "__proto__", "top_k", "tools", "response_format", "x" * 300, "\ud800", "Größe", "a.b[0]"]


def mutated(body: Any, random: Random, max_bytes: int) -> bytes:
    """Returns the body with one to three mutations, as UTF-8; now and then as bytes that are not quite JSON."""
    changed = copy.deepcopy(body)
    for _ in range(random.randint(1, 3)):
        if places := list(_places(changed)):
            random.choice(MUTATIONS)(*random.choice(places), random)
    # JSON's escapes are the only way to send half a surrogate pair.
    content = json.dumps(changed, ensure_ascii=True).encode()
    if len(content) > max_bytes:  # several mutations have multiplied each other
        return mutated(body, random, max_bytes)
    return _damaged(content, random) if random.random() < 0.05 else content


def fault_of_refusal(reply: httpx.Response) -> str | None:
    """Returns what is wrong with a refusal in OpenAI's format, or None."""
    if reply.status_code not in (400, 404, 413):
        return "an unexpected status"
    error = reply.json()["error"]
    if error.keys() != {"message", "type", "param", "code"} or error["type"] != "invalid_request_error":
        return "an error without OpenAI's shape"
    if not error["message"] or len(reply.content) > 1024:
        return "an error without a message, or a long one"
    return None


def _places(value: Any) -> Iterator[Place]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _drop(parent: Any, key: Any, random: Random) -> None:
    del parent[key]


def _set(parent: Any, key: Any, random: Random) -> None:
    parent[key] = copy.deepcopy(random.choice(VALUES))


def _set_text(parent: Any, key: Any, random: Random) -> None:
    parent[key] = random.choice(TEXTS)


def _nest(parent: Any, key: Any, random: Random) -> None:
    for _ in range(random.choice([1, 2, 40, 400])):
        parent[key] = [parent[key]] if random.random() < 0.5 else {"x": parent[key]}


def _repeat(parent: Any, key: Any, random: Random) -> None:
    """Repeats an element of a list; makes a list of a field, or writes it under another name too."""
    if isinstance(parent, list):
        parent[key:key] = [parent[key]] * random.choice([1, 10, 5000])
    elif random.random() < 0.5:
        parent[key] = [parent[key]] * 2
    else:
        parent[random.choice(NAMES)] = copy.deepcopy(parent[key])


def _swap(parent: Any, key: Any, random: Random) -> None:
    """Puts the value of another place of the same parent here."""
    other = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key] = copy.deepcopy(parent[other])


def _add(parent: Any, key: Any, random: Random) -> None:
    if isinstance(parent, dict):
        parent[random.choice(NAMES)] = copy.deepcopy(random.choice(VALUES))
    else:
        parent.append(copy.deepcopy(random.choice(VALUES)))


MUTATIONS: list[Callable[[Any, Any, Random], None]] = [_drop, _set, _set, _set_text, _nest, _repeat, _swap, _add]


def _damaged(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content))
    match random.randrange(5):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + bytes([random.randrange(256)]) + content[at:]
        case 2:
            return b'{"messages": [],' + content[1:]  # a field twice
        case 3:
            return b'{"temperature": NaN,' + content[1:]
        case _:
            return b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
