"""GET /api/files/{output_id}: sends the bytes of an output to its owner, or to the holder of a signed link.

The path on disk comes from the store only, never from the request. Event loop only.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from server.api.deps import KeyOrLink, ServiceDep
from server.api.wire import errors
from server.errors import NotFound
from server.jobs.artifacts import FILE_NAME
from server.jobs.encoding import MIME_TYPES
from server.jobs.jobs import NO_SUCH_FILE
from server.store.jobs import OutputRow

router = APIRouter()

BYTES: dict[str, Any] = {"content": {mime_type: {} for mime_type in sorted(MIME_TYPES.values())}}
OUTPUT_ID = re.compile(r"[0-9A-Za-z]{22}")


@router.head("/api/files/{output_id}", include_in_schema=False)
@router.get(
    "/api/files/{output_id}",
    response_class=FileResponse,
    responses={200: BYTES, 206: BYTES, 304: {"description": "not changed"}, **errors(404, 416)},
)
async def file(output_id: str, request: Request, service: ServiceDep, key: KeyOrLink) -> Response:
    """Sends the bytes of an output, whole or a range. Needs the owner's key, or the signed link in the job's status."""
    if not OUTPUT_ID.fullmatch(output_id):
        raise NotFound(NO_SUCH_FILE)
    output, path = await service.jobs.file(output_id, key)
    headers = file_headers(output)
    if headers["etag"] in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=output.mime_type, headers=headers)


def file_headers(output: OutputRow) -> dict[str, str]:
    assert FILE_NAME.fullmatch(output.file_name)
    suffix = output.file_name.rpartition(".")[2]
    return {
        "etag": f'"{output.sha256}"',
        "cache-control": "private, no-store",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "same-origin",
        "content-disposition": f'inline; filename="{output.job_id}-{output.index}.{suffix}"',
        "x-content-type-options": "nosniff",
    }
