"""GET /api/files/{file_id}: sends the bytes of an output, or of a file that was sent to the server, to its owner. The
holder of a signed link gets an output, too.

The path on disk comes from the store only, never from the request. Event loop only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from server.api.deps import KeyOrLink, ServiceDep
from server.api.wire import errors
from server.errors import NotFound
from server.jobs.artifacts import FILE_NAME
from server.jobs.encoding import MIME_TYPES
from server.jobs.inputs.references import FILE_ID
from server.jobs.jobs import NO_SUCH_FILE
from server.store.input_files import InputFileRow
from server.store.jobs import OutputRow

router = APIRouter()

BYTES: dict[str, Any] = {"content": {mime_type: {} for mime_type in sorted(MIME_TYPES.values())}}
OUTPUT_ID = re.compile(r"[0-9A-Za-z]{22}")


@router.head("/api/files/{file_id}", include_in_schema=False)
@router.get(
    "/api/files/{file_id}",
    response_class=FileResponse,
    responses={200: BYTES, 206: BYTES, 304: {"description": "not changed"}, **errors(404, 416)},
)
async def file(file_id: str, request: Request, service: ServiceDep, key: KeyOrLink) -> Response:
    """Sends the bytes of an output, whole or a range. Needs the owner's key, or the signed link in the job's status.
    The id may also be that of a file that was sent to `POST /api/files`, which is sent as it is kept.
    """
    if key is not None and FILE_ID.fullmatch(file_id):
        sent, path = await service.input_files.get(key, file_id)
        headers, media_type = input_file_headers(sent, path), sent.kept_mime_type
    elif OUTPUT_ID.fullmatch(file_id):
        output, path = await service.jobs.file(file_id, key)
        headers, media_type = file_headers(output), output.mime_type
    else:
        raise NotFound(NO_SUCH_FILE)
    if headers["etag"] in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=media_type, headers=headers)


def file_headers(output: OutputRow) -> dict[str, str]:
    assert FILE_NAME.fullmatch(output.file_name)
    suffix = output.file_name.rpartition(".")[2]
    return _headers(output.sha256, f"{output.job_id}-{output.index}.{suffix}")


def input_file_headers(sent: InputFileRow, path: Path) -> dict[str, str]:
    return _headers(sent.sha256, f"{sent.id}{path.suffix}")


def _headers(sha256: str, name: str) -> dict[str, str]:
    return {
        "etag": f'"{sha256}"',
        "cache-control": "private, no-store",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "same-origin",
        "content-disposition": f'inline; filename="{name}"',
        "x-content-type-options": "nosniff",
    }
