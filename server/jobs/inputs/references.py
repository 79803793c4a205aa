"""What a text may be that stands for a picture or clip: a file's id, an output's id or address, a data URL. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from server.errors import BadRequest, TooLarge
from server.jobs.inputs.media_types import MAX_BYTES

FILE_ID = re.compile(r"file_[0-9A-Za-z]{22}")
# An output's id, or its address as the status of a job shows it, so that a client can send what it was given.
OUTPUT = re.compile(r"(?:/api/files/)?(?P<id>[0-9A-Za-z]{22})(?:\?[0-9a-zA-Z=&_-]{0,200})?")
DATA_URL = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,4}?;base64,", re.IGNORECASE)
REMOTE_URL = re.compile(r"https?://", re.IGNORECASE)
MAX_URL_CHARACTERS = 2000
PIECE = 1 << 20  # characters of base64 that are decoded at once
WHAT = "a file id from POST /api/files, the id of an output of one of your jobs, or a data URL"


class NoReference(Exception):
    """The message says what the text must be instead, without the place."""


@dataclass(frozen=True, slots=True)
class FileId:
    id: str


@dataclass(frozen=True, slots=True)
class OutputId:
    id: str


@dataclass(frozen=True, slots=True)
class Sent:
    data: bytes


@dataclass(frozen=True, slots=True)
class Remote:
    url: str


Reference: TypeAlias = FileId | OutputId | Sent | Remote


def read_references(media: Mapping[str, str]) -> dict[str, Reference]:
    """media: place in the request → text. Raises `BadRequest`. A data URL may have megabytes: worker threads."""
    return {place: _read_reference(text, place) for place, text in media.items()}


def unknown(place: str) -> BadRequest:
    """One text for whatever the key does not have, so that nobody learns what others have."""
    return BadRequest(f"{place}: there is no such file. Send {WHAT}.", param=field_of(place))


def named_id(text: str) -> str:
    """The id of the file or output that a text names; "" for what it contains itself, and for other addresses."""
    if FILE_ID.fullmatch(text):
        return text
    return output["id"] if (output := OUTPUT.fullmatch(text)) is not None else ""


def field_of(place: str) -> str:
    """Returns the field of a place: "control" of "control[0].image"."""
    return place.partition("[")[0]


def _read_reference(text: str, place: str) -> Reference:
    if FILE_ID.fullmatch(text):
        return FileId(text)
    if (output := OUTPUT.fullmatch(text)) is not None:
        return OutputId(output["id"])
    if (head := DATA_URL.match(text)) is not None:
        try:
            return Sent(decoded_base64(text, head.end(), MAX_BYTES))
        except NoReference as error:
            raise BadRequest(f"{place} must be {error}.", param=field_of(place)) from None
    if REMOTE_URL.match(text) and len(text) <= MAX_URL_CHARACTERS:
        return Remote(text)
    raise unknown(place)


def decoded_base64(text: str, start: int, max_bytes: int) -> bytes:
    """Decodes the base64 that begins at `start`; its lines may be broken. Raises `NoReference`.

    Piece by piece, so that other threads run in between: megabytes at once would hold up the event loop.
    """
    if len(text) - start > max_bytes * 3 // 2:  # base64 is 4/3
        raise NoReference(f"the base64 of at most {max_bytes >> 20} MiB")
    decoded, left = bytearray(), b""
    try:
        for at in range(start, len(text), PIECE):
            piece = left + text[at : at + PIECE].encode("ascii").translate(None, b" \r\n\t")
            end = len(piece) // 4 * 4 if at + PIECE < len(text) else len(piece)
            if decoded and len(decoded) % 3 and piece:  # something follows the padding
                raise ValueError
            decoded += base64.b64decode(piece[:end], validate=True)
            left = piece[end:]
    except ValueError:  # also a character that is not ASCII
        raise NoReference("a data URL with the base64 of a file, without other characters") from None
    return bytes(decoded)


def too_large(place: str) -> TooLarge:
    return TooLarge(f"{place} may have at most {MAX_BYTES >> 20} MiB.", param=field_of(place))
