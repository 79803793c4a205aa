"""Reads the items that a client sends as the input of a response, into one form of each. Pure functions.

Only what is read here is stored and shown again: unknown fields of items are ignored, also the ids that clients give
them. An item that cannot be read is a 400 that names the place, such as input[2].content[0].text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from server.api.openai.message_schema import IMAGE_PARTS, TEXT_PARTS
from server.api.shared.client_json import SHOWN_TYPE, arguments_text, readable_text, refuse
from server.errors import BadRequest, NotFound
from server.service.responses import Item

Part: TypeAlias = dict[str, Any]

MAX_ITEMS = 4096
ROLES = ("user", "assistant", "system", "developer")
IMAGE_ROLES = ("user",)
TEXT_OR_PARTS = "text or a list of parts"
INPUT = f"text, or a list of at most {MAX_ITEMS} items"
# The ids of items name the response that they belong to: the output of a response, or what was added before it.
ITEM_ID = re.compile(r"[a-z]{2,4}_([0-9A-Za-z]{22})_(in)?([0-9]{1,4})")
PREFIXES = {
    "message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco",
    "custom_tool_call": "ctc", "custom_tool_call_output": "ctco",
}  # fmt: skip


def read_items(value: object) -> list[Item]:
    """Returns the items in one form, without ids. Raises `BadRequest`."""
    if isinstance(value, str):
        return [_message({"role": "user", "content": value}, "input")]
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        refuse("input", INPUT)
    return [_item(fields, f"input[{index}]") for index, fields in enumerate(value)]


def output_id(kind: str, response_id: str, index: int) -> str:
    """Returns the id of an item in the output of a response."""
    return f"{PREFIXES[kind]}_{response_id.removeprefix('resp_')}_{index}"


def with_ids(items: Sequence[Item], response_id: str) -> list[Item]:
    """Returns the items that are added before a response, with ids."""
    suffix = response_id.removeprefix("resp_")
    return [{"id": f"{PREFIXES[item['type']]}_{suffix}_in{index}", **item} for index, item in enumerate(items)]


def referenced(items: Sequence[Item]) -> Iterator[str]:
    """Yields the ids of the responses that the references among the items need. Raises `NotFound`, and `BadRequest`
    for a second reference to one item: a small request would else have thousands of copies of a large item.
    """
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item["type"] == "item_reference":
            match = ITEM_ID.fullmatch(item["id"])
            if match is None:
                raise no_such_item(index)
            if item["id"] in seen:
                raise BadRequest(f"input[{index}] refers to the same item as one before it.", param="input")
            seen.add(item["id"])
            yield f"resp_{match[1]}"


def resolved(items: Sequence[Item], find: Callable[[str, str, bool], Item | None]) -> list[Item]:
    """Returns the items with the ones that they refer to in the places of the references. Raises `NotFound`.

    find: (id of the item, id of its response, whether it is of the output) → the item
    """
    whole = []
    for index, item in enumerate(items):
        found: Item | None = item
        if item["type"] == "item_reference" and (match := ITEM_ID.fullmatch(item["id"])) is not None:
            found = find(item["id"], f"resp_{match[1]}", not match[2])
        if found is None:
            raise no_such_item(index)
        whole.append({name: value for name, value in found.items() if name != "id"})
    return whole


def no_such_item(index: int) -> NotFound:
    return NotFound(
        f"input[{index}] refers to an item that is not stored: its response was created with store: false, was "
        "deleted, or is too old. Send the item itself.",
        param="input",
    )


def _item(fields: object, where: str) -> Item:
    if not isinstance(fields, dict):
        refuse(where, "an object with a type")
    kind = fields.get("type")
    if kind is None:
        kind = "message" if "role" in fields else "item_reference"
    reader = READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        shown = f" of the type {kind}" if isinstance(kind, str) and SHOWN_TYPE.fullmatch(kind) else ""
        raise BadRequest(
            f"{where}: an item{shown} is not supported here. Types of items: {', '.join(READERS)}.", param="input"
        )
    return reader(fields, where)


def _message(fields: Mapping[str, Any], where: str) -> Item:
    role = fields.get("role")
    if not isinstance(role, str) or role not in ROLES:
        refuse(f"{where}.role", f"one of {', '.join(ROLES)}")
    text_type = "output_text" if role == "assistant" else "input_text"
    content = _parts(fields.get("content"), f"{where}.content", text_type, pictures=role in IMAGE_ROLES)
    return {"type": "message", "status": "completed", "role": role, "content": content}


def _parts(content: object, where: str, text_type: str, *, pictures: bool) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [_text_part(content, where, text_type)]
    if not isinstance(content, list):
        refuse(where, TEXT_OR_PARTS)
    return [
        _part(part, f"{where}[{index}]", text_type, pictures=pictures)
        for index, part in enumerate(content)
        if part != {}
    ]


def _part(part: object, where: str, text_type: str, *, pictures: bool) -> Part:
    if isinstance(part, str):
        return _text_part(part, where, text_type)
    if not isinstance(part, dict):
        refuse(where, f'a part like {{"type": "{text_type}", "text": "…"}}')
    kind = part.get("type", text_type)
    if isinstance(kind, str) and kind in TEXT_PARTS:
        field = TEXT_PARTS[kind]
        if field not in part:
            refuse(f"{where}.{field}", "text")
        return _text_part(part[field], f"{where}.{field}", text_type)
    if pictures and kind in IMAGE_PARTS:
        return _image_part(part, where)
    shown = f" of the type {kind}" if isinstance(kind, str) and SHOWN_TYPE.fullmatch(kind) else ""
    further = " and input_image" if pictures else ""
    raise BadRequest(
        f"{where}: a part{shown} is not supported here. Send parts of the type {text_type}{further}.", param="input"
    )


def _text_part(value: object, where: str, text_type: str) -> Part:
    part = {"type": text_type, "text": readable_text(value, where)}
    return {**part, "annotations": [], "logprobs": []} if text_type == "output_text" else part


def _image_part(part: Mapping[str, Any], where: str) -> Part:
    """Takes the fields of a picture, also in the form of chat completions; `item_messages` reads what they hold."""
    url, detail = part.get("image_url"), part.get("detail")
    if isinstance(url, dict):
        detail, url = url.get("detail", detail), url.get("url")
    detail = readable_text(detail, f"{where}.detail") or "auto"
    if (file_id := part.get("file_id")) is not None:
        if url is not None:
            refuse(f"{where}.file_id", "left out beside image_url")
        return {"type": "input_image", "file_id": readable_text(file_id, f"{where}.file_id"), "detail": detail}
    return {"type": "input_image", "image_url": readable_text(url, f"{where}.image_url"), "detail": detail}


def _reasoning(fields: Mapping[str, Any], where: str) -> Item:
    """What the model thought, in `content` or in `summary`; one that another service has encrypted has no text."""
    content = _thoughts(fields, "content", "reasoning_text", where)
    summary = _thoughts(fields, "summary", "summary_text", where)
    return {"type": "reasoning", "summary": summary, "content": content}


def _thoughts(fields: Mapping[str, Any], name: str, kind: str, where: str) -> list[Part]:
    parts = fields.get(name)
    if parts is not None and not isinstance(parts, list):
        refuse(f"{where}.{name}", "a list of parts")
    found = []
    for index, part in enumerate(parts or ()):
        place = f"{where}.{name}[{index}]"
        if not isinstance(part, dict):
            refuse(place, f'a part like {{"type": "{kind}", "text": "…"}}')
        found.append({"type": kind, "text": readable_text(part.get("text"), f"{place}.text")})
    return found


def _function_call(fields: Mapping[str, Any], where: str) -> Item:
    namespace = readable_text(fields.get("namespace"), f"{where}.namespace")
    return {
        "type": "function_call",
        "status": "completed",
        "call_id": _call_id(fields, where),
        "name": _name(fields, where),
        **({"namespace": namespace} if namespace else {}),
        "arguments": arguments_text(fields.get("arguments"), f"{where}.arguments"),
    }


def _custom_call(fields: Mapping[str, Any], where: str) -> Item:
    return {
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": _call_id(fields, where),
        "name": _name(fields, where),
        "input": readable_text(fields.get("input"), f"{where}.input"),
    }


def _output(fields: Mapping[str, Any], where: str) -> Item:
    """The result of a call, as text or as parts."""
    output = fields.get("output")
    given = output if isinstance(output, str) else _parts(output, f"{where}.output", "input_text", pictures=True)
    if isinstance(given, str):
        readable_text(given, f"{where}.output")
    return {"type": fields["type"], "status": "completed", "call_id": _call_id(fields, where), "output": given}


def _reference(fields: Mapping[str, Any], where: str) -> Item:
    item_id = fields.get("id")
    if not isinstance(item_id, str):
        refuse(f"{where}.id", "the id of an item of an earlier response")
    return {"type": "item_reference", "id": item_id}


def _call_id(fields: Mapping[str, Any], where: str) -> str:
    """The id that a call and its output share; without one, the item's own."""
    call_id = fields.get("call_id") or fields.get("id")
    if not isinstance(call_id, str):
        refuse(f"{where}.call_id", "the id of the call")
    return readable_text(call_id, f"{where}.call_id")


def _name(fields: Mapping[str, Any], where: str) -> str:
    if not isinstance(fields.get("name"), str):
        refuse(f"{where}.name", "the name of the tool")
    return readable_text(fields["name"], f"{where}.name")


READERS: Mapping[str, Callable[[Mapping[str, Any], str], Item]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _function_call,
    "function_call_output": _output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _output,
    "item_reference": _reference,
}
