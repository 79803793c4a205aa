"""/api/files: takes, lists and deletes the pictures and clips that jobs start from. Event loop only.

`server/api/files.py` sends the bytes of one.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep
from server.api.shared.multipart import is_form, read_form
from server.api.wire import JsonObject, Reply, errors, timestamp
from server.errors import BadRequest, NotFound
from server.jobs.inputs.references import FILE_ID
from server.jobs.jobs import NO_SUCH_FILE
from server.store.input_files import InputFileRow

router = APIRouter()

FILTERS = ("limit", "cursor")
MAX_PARTS = 8  # of a form that has one file, so that one with more gets an error that says so
ONE_FILE = "The form must have one file and nothing else."
BINARY = {"type": "string", "format": "binary", "description": "a file"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"title": "FileForm", "type": "object", "required": ["file"], "properties": {"file": BINARY}}
            },
            **{kind: {"schema": BINARY} for kind in ("image/*", "video/*")},
        },
    }
}


class FileReply(Reply):
    fileId: str
    mimeType: str
    width: int
    height: int
    durationSeconds: float | None
    bytes: int
    sha256: str
    expiresAt: str


class FilesReply(Reply):
    files: list[FileReply]
    nextCursor: str | None
    usedBytes: int
    limitBytes: int | None


class DeletedFileReply(Reply):
    fileId: str
    deleted: bool


@router.post("/api/files", responses={200: {"model": FileReply}, **errors(413, 429)}, openapi_extra=BODY)
async def add_file(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Takes a picture (PNG, JPEG, WebP) or a clip (MP4, WebM) of at most 32 MiB, as a form with one file or as the
    bytes themselves, for later requests to name by its id. What the file is, its bytes say. `mimeType`, `bytes` and
    `sha256` are those of the file as it was sent. It is kept upright, with 8 bits per channel in sRGB, without metadata
    and sound. The same file again gets the same id, and expires later.
    """
    service.limits.count_request(key, service.accounts.plan_of(key))
    data = await _form_file(request) if is_form(request) else await request.body()
    return JSONResponse(_json(await service.input_files.add(key, data)))


@router.get("/api/files", responses={200: {"model": FilesReply}, **errors()})
async def list_files(
    request: Request,
    service: ServiceDep,
    key: KeyDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
) -> Response:
    """Lists the files that were sent to `POST /api/files`, newest first, and the disk that all files of the key take,
    of what its plan allows. Pass `nextCursor` as `cursor` for the next page.
    """
    if any(name not in FILTERS for name in request.query_params):
        raise BadRequest(f"The query takes {' and '.join(FILTERS)}, each once, and nothing else.")
    rows, after = await service.input_files.list(key, limit, cursor)
    space = await service.input_files.space(key)
    return JSONResponse(
        {
            "files": [_json(row) for row in rows],
            "nextCursor": after,
            "usedBytes": space.used_bytes,
            "limitBytes": space.limit_bytes,
        }
    )


@router.delete("/api/files/{file_id}", responses={200: {"model": DeletedFileReply}, **errors(404)})
async def delete_file(file_id: str, service: ServiceDep, key: KeyDep) -> Response:
    """Deletes a file that was sent to `POST /api/files`. Jobs that were accepted with it still run. An output is
    deleted with its job.
    """
    if not FILE_ID.fullmatch(file_id):
        raise NotFound(NO_SUCH_FILE)
    await service.input_files.delete(key, file_id)
    return JSONResponse({"fileId": file_id, "deleted": True})


async def _form_file(request: Request) -> bytes:
    form = await read_form(request, max_parts=MAX_PARTS)
    files = [file for each in form.files.values() for file in each]
    if len(files) != 1 or form.texts:
        raise BadRequest(ONE_FILE)
    return files[0].data


def _json(row: InputFileRow) -> JsonObject:
    return {
        "fileId": row.id,
        "mimeType": row.mime_type,
        "width": row.width,
        "height": row.height,
        "durationSeconds": None if row.duration_s is None else round(row.duration_s, 3),
        "bytes": row.n_bytes,
        "sha256": row.sha256,
        "expiresAt": timestamp(row.expires_at),
    }
