"""POST /sdapi/v1/png-info, which reads how an image was made from its file, and the refusal of interrogate.

Event loop only; files are read on a worker thread.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from PIL import Image
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep
from server.api.schemas import read_body
from server.api.sdapi.pictures import decode
from server.api.sdapi.schema import BASE64, Base64, Tolerant
from server.api.shared.form_fields import read_fields
from server.api.wire import errors, json_body
from server.errors import BadRequest
from server.jobs.encoding import EXIF_IFD, EXIF_USER_COMMENT
from server.jobs.metadata import INVISIBLE, NEGATIVE

router = APIRouter()

FORMATS = ("PNG", "JPEG", "WEBP")
TEXT = "parameters"  # where AUTOMATIC1111 keeps it in a PNG
ENCODING_BYTES = 8  # of an EXIF comment, before its text
# A name, a colon and a value, which is in quotes if it has commas; the last line of the text is a list of these.
PARAMETER = re.compile(r'\s*(\w[\w \-/]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
MIN_PARAMETERS = 3  # a last line with fewer belongs to the prompt
SIZE = re.compile(r"(\d+)x(\d+)")
INTERROGATE = (
    "interrogate needs a model that describes pictures (CLIP with BLIP, or DeepDanbooru), which this server does not "
    "run. Send the picture to a chat model that reads pictures: POST /v1/chat/completions."
)


class PngInfo(Tolerant):
    image: Base64 = Field(description=f"{BASE64}; a PNG, JPEG or WebP file")


@router.post("/png-info", responses={200: {}, **errors(413)}, openapi_extra=json_body(PngInfo))
async def png_info(request: Request, _: KeyDep) -> Response:
    """Reads the text that tells how an image was made: `info` is the text, `parameters` its values by their names,
    `items` the other texts of the file. The files of this server's results have them too.
    """
    body = read_body(PngInfo, await read_fields(request))
    return JSONResponse(await asyncio.to_thread(read_info, decode(body.image.strip(), "image")))


@router.post("/interrogate", responses=errors(413))
async def interrogate(_: KeyDep) -> Response:
    """Always a 400: this server has no model that describes pictures for this route."""
    raise BadRequest(INTERROGATE)


def read_info(content: bytes) -> dict[str, Any]:
    """Reads the head of a file; its pixels are not decoded. Raises `BadRequest`."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            texts = {name: value for name, value in image.info.items() if isinstance(value, str)}
            comment = image.getexif().get_ifd(EXIF_IFD).get(EXIF_USER_COMMENT)
    except Exception:  # noqa: BLE001  # Pillow raises many kinds for files that it cannot read
        raise BadRequest("image must be a PNG, JPEG or WebP file that can be read.") from None
    text = texts.pop(TEXT, "") or _comment(comment)
    return {"info": text, "items": texts, "parameters": read_parameters(text) if text else {}}


def _comment(comment: object) -> str:
    if not isinstance(comment, bytes) or len(comment) <= ENCODING_BYTES:
        return ""
    encoding, text = comment[:ENCODING_BYTES], comment[ENCODING_BYTES:]
    return text.decode("utf-16-be" if encoding == b"UNICODE\0" else "utf-8", errors="replace")


def read_parameters(text: str) -> Mapping[str, str]:
    """Reads a text as AUTOMATIC1111 writes it: the prompt, the negative prompt, and a last line of named values."""
    *lines, last = text.strip().split("\n")
    values = PARAMETER.findall(last)
    if len(values) < MIN_PARAMETERS:
        lines, values = [*lines, last], []
    negative_at = next((i for i, line in enumerate(lines) if line.strip().startswith(NEGATIVE)), len(lines))
    negative = "\n".join(line.strip() for line in lines[negative_at:]).removeprefix(NEGATIVE).strip()
    found = {
        "Prompt": "\n".join(line.strip() for line in lines[:negative_at]).removeprefix(INVISIBLE),
        "Negative prompt": negative,
    }
    for name, quoted in values:
        value = _unquoted(quoted)
        size = SIZE.fullmatch(value)
        found |= {f"{name}-1": size[1], f"{name}-2": size[2]} if size else {name: value}
    return found


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text.strip()
    except ValueError:
        return text
