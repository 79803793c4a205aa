"""What a text may be that stands for a picture or clip: a file's id, an output's id or address, a data URL. Pure."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TypeAlias

FILE_ID = re.compile(r"file_[0-9A-Za-z]{22}")
# An output's id, or its address as the status of a job shows it, so that a client can send what it was given.
OUTPUT = re.compile(r"(?:/api/files/)?(?P<id>[0-9A-Za-z]{22})(?:\?[0-9a-zA-Z=&_-]{0,200})?")
DATA_URL = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,4}?;base64,", re.IGNORECASE)
REMOTE_URL = re.compile(r"https?://", re.IGNORECASE)
MAX_URL_CHARACTERS = 2000
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


def read_reference(text: str, max_bytes: int) -> Reference:
    """Raises `NoReference`, also for a data URL of more than `max_bytes`."""
    if FILE_ID.fullmatch(text):
        return FileId(text)
    if (output := OUTPUT.fullmatch(text)) is not None:
        return OutputId(output["id"])
    if (head := DATA_URL.match(text)) is not None:
        return Sent(decoded_base64(text, head.end(), max_bytes))
    if REMOTE_URL.match(text) and len(text) <= MAX_URL_CHARACTERS:
        return Remote(text)
    raise NoReference(WHAT)


def decoded_base64(text: str, start: int, max_bytes: int) -> bytes:
    """Decodes the base64 that begins at `start`; its lines may be broken. Raises `NoReference`."""
    if len(text) - start > max_bytes * 3 // 2:  # base64 is 4/3
        raise NoReference(f"of at most {max_bytes >> 20} MiB")
    try:
        return base64.b64decode(text[start:].encode("ascii").translate(None, b" \r\n\t"), validate=True)
    except ValueError:  # also a character that is not ASCII
        raise NoReference("a data URL with the base64 of a file, without other characters") from None
