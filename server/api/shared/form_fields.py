"""Reads the fields of a request that is sent as JSON, or as a form if it has files. Event loop only."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from starlette.requests import Request

from server.api.read_json import read_json
from server.api.shared.multipart import Form, UploadedFile, is_form, read_form
from server.errors import BadRequest

NESTED = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")  # "image[]", "image[0]", "input_reference[file_id]"
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?")
BOOLEANS = {"true": True, "false": False}


async def read_fields(request: Request, typed: Collection[str] = ()) -> dict[str, Any]:
    """Returns the fields of the body. Those of a form are as `form_fields` says. Raises `BadRequest`, `TooLarge`."""
    if is_form(request):
        return form_fields(await read_form(request), typed)
    # Not `request.body()`, which keeps a body, of up to 64 MiB here, as long as the request lasts.
    return await read_json(b"".join([piece async for piece in request.stream()]), dict)


def form_fields(form: Form, typed: Collection[str] = ()) -> dict[str, Any]:
    """Returns the fields as the JSON of the same request would have them; files are an `UploadedFile` each.

    "a[]", and a name that occurs several times, is a list, and "a[b]" a field of an object. An empty text is as if it
    were not there: programs send their own settings that way, and browsers fields that nobody filled in. typed: names
    of fields that are numbers or booleans in JSON. Raises `BadRequest` for names that contradict each other.
    """
    fields: dict[str, Any] = {}
    for name, values in _parts(form, typed):
        nested = NESTED.fullmatch(name)
        if nested is None:
            _extend(fields, name, values, is_list=len(values) > 1)
        elif not nested[2] or nested[2].isdecimal():
            _extend(fields, nested[1], values, is_list=True)
        else:
            inner = fields.setdefault(nested[1], {})
            if not isinstance(inner, dict) or nested[2] in inner or len(values) > 1:
                raise BadRequest("The form has a field twice.")
            inner[nested[2]] = values[0]
    return fields


def _parts(form: Form, typed: Collection[str]) -> Iterator[tuple[str, Sequence[str | int | float | UploadedFile]]]:
    for name, texts in form.texts.items():
        if given := [text for text in texts if text]:
            yield name, [_value(text) for text in given] if name in typed else given
    yield from form.files.items()


def _extend(fields: dict[str, Any], name: str, values: Sequence[Any], *, is_list: bool) -> None:
    if name not in fields:
        fields[name] = [*values] if is_list else values[0]
    elif isinstance(fields[name], dict):
        raise BadRequest("The form has a field twice.")
    else:
        before = fields[name] if isinstance(fields[name], list) else [fields[name]]
        fields[name] = [*before, *values]


def _value(text: str) -> str | int | float:
    """Returns the number or boolean that is written there, or the text, which the schema then refuses by name."""
    number = NUMBER.fullmatch(text)
    if number is None:
        return BOOLEANS.get(text.lower(), text)
    return float(text) if number[2] else int(text)
