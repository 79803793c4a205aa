"""The pictures of a request in OpenAI's format: files of a form, or references in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel

from server.accounts.auth import ApiKey
from server.api.shared.multipart import UploadedFile
from server.api.wire import json_body
from server.errors import BadRequest
from server.jobs.request.generate_request import Media
from server.service.service import Service
from server.store.input_files import InputFileRow

Picture: TypeAlias = UploadedFile | Media
MAX_IMAGES = 16
REFERENCE = (
    'a file of a form, or an object like {"image_url": URL} or {"file_id": ID}, where URL is a data URL and ID the id '
    "of a file or of an output of one of your jobs"
)


def take_images(fields: dict[str, Any]) -> list[Picture]:
    """Takes the pictures of an edit out of the fields: `image` of a form, one or several, or `images` of JSON.

    Raises `BadRequest`.
    """
    name = "images" if "images" in fields else "image"
    value = fields.pop(name, None)
    values = value if isinstance(value, list) else [value]
    if value is None or not 1 <= len(values) <= MAX_IMAGES:
        raise BadRequest(f"{name} is required: 1 to {MAX_IMAGES} pictures, each {REFERENCE}.", param=name)
    return [_picture(name, each) for each in values]


def take_picture(fields: dict[str, Any], name: str) -> Picture | None:
    """Takes one picture, or clip, out of the fields; None if there is none. Raises `BadRequest`."""
    value = fields.pop(name, None)
    return None if value is None else _picture(name, value)


async def keep(service: Service, key: ApiKey, pictures: Mapping[str, Picture]) -> dict[str, InputFileRow]:
    """Returns the server's files of these pictures, by the same places; keeps those that are new.

    Raises `TooMany` for a key that could not start a job now, and what `InputFiles.find` does, with the place.
    """
    service.limits.expect_request(key, service.accounts.plan_of(key))
    media: dict[str, Media] = {}
    for place, picture in pictures.items():
        if isinstance(picture, UploadedFile):
            media[place] = (await service.input_files.add(key, picture.data, listed=False, place=place)).id
        else:
            media[place] = picture
    return await service.input_files.find(key, media)


def picture_body(model: type[BaseModel], *, is_list: bool = False, **names: str) -> dict[str, Any]:
    """Returns `openapi_extra` for a route whose body is JSON or a form.

    names: of the pictures, and what each is. is_list: of the first one there may be several.
    """
    body = json_body(model)
    content = body["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    for media_type, picture in (("application/json", _REFERENCE), ("multipart/form-data", _FILE)):
        properties: dict[str, Any] = {name: {**picture, "description": text} for name, text in names.items()}
        first = next(iter(names))
        if is_list:
            properties[first] = {"type": "array", "items": picture, "maxItems": MAX_IMAGES, "description": names[first]}
        content[media_type] = {"schema": {**schema, "properties": properties | schema["properties"]}}
    return body


_FILE = {"type": "string", "format": "binary"}
_REFERENCE = {
    "title": "PictureReference",
    "type": "object",
    "properties": {"image_url": {"type": "string"}, "file_id": {"type": "string"}},
    "additionalProperties": False,
}


def _picture(name: str, value: Any) -> Picture:
    match value:
        case UploadedFile() | str():
            return value
        case {"image_url": str(reference), **rest} | {"file_id": str(reference), **rest} if not any(rest.values()):
            return reference
        case _:
            raise BadRequest(f"{name} must be {REFERENCE}.", param=name)
