"""The steps that send pictures and clips to the server before the request that names them. No network I/O here."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from server.client.replies import InputFile
from server.client.talk import Send, Step, read, send

TIMEOUT_S = 120.0  # a clip is decoded before the reply


def upload_file(file: str | Path | bytes, retries: int) -> Generator[Step[Any], Any, InputFile]:
    """Raises `OSError` for a file that cannot be read, and the errors of the server."""
    content = file if isinstance(file, bytes) else Path(file).read_bytes()
    headers = {"Content-Type": "application/octet-stream"}  # the server looks at the bytes
    sending = Send("POST", "/api/files", content=content, headers=headers, read_timeout_s=TIMEOUT_S)
    return read((yield from send(sending, retries)), InputFile)


def uploaded(value: Any, retries: int) -> Generator[Step[Any], Any, Any]:
    """Returns `value` with the id of an uploaded file for each `Path` and each bytes in it, however deep."""
    match value:
        case Path() | bytes():
            return (yield from upload_file(value, retries)).file_id
        case dict():
            fields = {}
            for name, inner in value.items():
                fields[name] = yield from uploaded(inner, retries)
            return fields
        case list() | tuple():
            return list((yield from uploaded(dict(enumerate(value)), retries)).values())
        case _:
            return value
