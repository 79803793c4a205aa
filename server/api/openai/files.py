"""/v1/files: pictures and clips that later requests name by their ids, in OpenAI's format. Event loop only.

They are the files of /api/files. Nothing else is kept: neither batches nor documents.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep
from server.api.files import BYTES, input_file_headers
from server.api.openai.paging import page_reply, read_page
from server.api.openai.wire import errors, seconds
from server.api.schemas import read_body
from server.api.shared.form_fields import form_fields
from server.api.shared.multipart import UploadedFile, read_form
from server.api.strict_fields import Strict
from server.api.wire import JsonObject
from server.errors import BadRequest, NotFound
from server.jobs.inputs.references import FILE_ID
from server.jobs.jobs import NO_SUCH_FILE
from server.store.input_files import InputFileRow

router = APIRouter(tags=["OpenAI"])

PURPOSE = "vision"
MAX_PARTS = 8
MAX_LISTED = 100  # at once: clients ask for the next page
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "title": "FileUpload",
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "a picture or clip"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                    },
                }
            }
        },
    }
}


class FileFields(Strict):
    purpose: Literal["vision"] = Field(description="vision: other files than pictures and clips are not kept")


@router.post("/v1/files", responses={200: {}, **errors(413, 429)}, openapi_extra=BODY)
async def upload(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Takes a picture or clip, as `POST /api/files` does. The name of the file is not kept."""
    service.limits.count_request(key, service.accounts.plan_of(key))
    fields = form_fields(await read_form(request, max_parts=MAX_PARTS))
    file = fields.pop("file", None)
    read_body(FileFields, fields)
    if not isinstance(file, UploadedFile):
        raise BadRequest("file is required: one picture or clip.", param="file")
    return JSONResponse(_file(await service.input_files.add(key, file.data)))


@router.get("/v1/files", responses={200: {}, **errors()})
async def files(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Lists the key's files, newest first."""
    limit, after = read_page(request, usual=100, most=10_000, others=["purpose"])
    if request.query_params.get("purpose", PURPOSE) != PURPOSE:
        return page_reply([], False)
    cursor = None
    if after is not None:
        cursor = await service.input_files.cursor_after(key, after)
        if cursor is None:
            raise BadRequest("after must be the id of one of your files.")
    rows, more = await service.input_files.list(key, min(limit, MAX_LISTED), cursor)
    return page_reply([_file(row) for row in rows], more is not None)


@router.get("/v1/files/{file_id}", responses={200: {}, **errors(404)})
async def file(file_id: str, service: ServiceDep, key: KeyDep) -> Response:
    """Describes a file."""
    _check(file_id)
    row, _ = await service.input_files.get(key, file_id)
    return JSONResponse(_file(row))


@router.delete("/v1/files/{file_id}", responses={200: {}, **errors(404)})
async def delete(file_id: str, service: ServiceDep, key: KeyDep) -> Response:
    """Deletes a file. Jobs that were accepted with it still run."""
    _check(file_id)
    await service.input_files.delete(key, file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


@router.get(
    "/v1/files/{file_id}/content",
    response_class=FileResponse,
    responses={200: BYTES, 206: BYTES, **errors(404, 416)},
)
async def content(file_id: str, service: ServiceDep, key: KeyDep) -> Response:
    """Sends a file as it is kept: a picture as PNG, a clip without its sound."""
    _check(file_id)
    row, path = await service.input_files.get(key, file_id)
    return FileResponse(path, media_type=row.kept_mime_type, headers=input_file_headers(row, path))


def _check(file_id: str) -> None:
    if not FILE_ID.fullmatch(file_id):
        raise NotFound(NO_SUCH_FILE)


def _file(row: InputFileRow) -> JsonObject:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.n_bytes,
        "created_at": seconds(row.created_at),
        "expires_at": seconds(row.expires_at),
        "filename": f"{row.id}.{row.mime_type.rpartition('/')[2]}",
        "purpose": PURPOSE,
        "status": "processed",
    }
