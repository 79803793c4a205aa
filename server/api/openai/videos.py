"""/v1/videos: creates, lists, polls, downloads and deletes videos in OpenAI's format. A video is an ordinary job.

Event loop only.
"""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from server.accounts.auth import ApiKey
from server.api.deps import JOB_ID, KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.files import BYTES, file_headers
from server.api.openai.video_schema import VideoCreation, read_video
from server.api.openai.wire import errors, seconds
from server.api.schemas import read_object
from server.api.wire import JsonObject, json_body
from server.errors import BadRequest, NotFound
from server.job import State
from server.jobs.job_view import JobView
from server.service.service import Service

router = APIRouter(tags=["OpenAI"])

STATUSES = {
    State.QUEUED: "queued",
    State.PROCESSING: "in_progress",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELED: "failed",  # OpenAI's API has no canceled state
}
NO_SUCH_VIDEO = "There is no such video."


@router.post("/v1/videos", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(VideoCreation))
async def create(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Accepts a video job. The body is JSON or, as OpenAI's clients send it, a multipart form."""
    async with allowance_on_error(request, service, key, ["videos"]):
        accepted = await service.submission.accept(key, read_video(_body(request, await request.body())))
    view = await service.jobs.status(key, accepted.job_id)
    return JSONResponse(_video(view), headers=allowance_headers(service, accepted.allowance))


@router.get("/v1/videos", responses={200: {}, **errors()})
async def videos(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Lists the key's videos, newest first."""
    query = dict(request.query_params)
    if len(query) != len(request.query_params.multi_items()) or query.keys() - {"after", "limit", "order"}:
        raise BadRequest("The query takes after, limit, order, each once, and nothing else.")
    limit = query.get("limit", "20")
    if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:4]) <= 100:
        raise BadRequest("limit must be a whole number from 1 to 100.")
    if query.get("order", "desc") != "desc":
        raise BadRequest("order must be desc: newest first.")
    cursor = None
    if "after" in query:
        cursor = await service.jobs.cursor_after(key, query["after"]) if JOB_ID.fullmatch(query["after"]) else None
        if cursor is None:
            raise BadRequest("after must be the id of one of your videos.")
    views, more = await service.jobs.list(key, None, int(limit), cursor, "video")
    data = [_video(view) for view in views]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": more is not None})


@router.get("/v1/videos/{video_id}", responses={200: {}, **errors(404)})
async def video(video_id: str, service: ServiceDep, key: KeyDep) -> Response:
    """Returns the state of one video."""
    return JSONResponse(_video(await _find(service, key, video_id)))


@router.delete("/v1/videos/{video_id}", responses={200: {}, **errors(404)})
async def delete(video_id: str, service: ServiceDep, key: KeyDep) -> Response:
    """Cancels a video that has not ended, and deletes the files of one that has."""
    view = await _find(service, key, video_id)
    await service.jobs.cancel(key, view.id)
    return JSONResponse({"id": view.id, "object": "video.deleted", "deleted": True})


@router.get(
    "/v1/videos/{video_id}/content",
    response_class=FileResponse,
    responses={200: BYTES, 206: BYTES, **errors(404, 416)},
)
async def content(
    video_id: str, request: Request, service: ServiceDep, key: KeyDep, variant: Literal["video"] = "video"
) -> Response:
    """Sends the file of a completed video, whole or a range of it."""
    if any(name != "variant" for name in request.query_params):
        raise BadRequest("The query takes variant=video and nothing else.")
    view = await _find(service, key, video_id)
    if not view.outputs:
        raise NotFound("This video is not finished, or its file is gone.")
    output, path = await service.jobs.file(view.outputs[0].id, key)
    return FileResponse(path, media_type=output.mime_type, headers=file_headers(output))


async def _find(service: Service, key: ApiKey, video_id: str) -> JobView:
    if not JOB_ID.fullmatch(video_id):
        raise NotFound(NO_SUCH_VIDEO)
    view = await service.jobs.status(key, video_id)
    if view.type != "video":
        raise NotFound(NO_SUCH_VIDEO)
    return view


def _video(view: JobView) -> JsonObject:
    error = view.error and {"code": view.error["code"], "message": view.error["message"]}
    if view.status is State.CANCELED:
        error = {"code": "canceled", "message": "The video was canceled."}
    return {
        "id": view.id,
        "object": "video",
        "model": view.model,
        "status": STATUSES[view.status],
        "progress": int(view.progress * 100),
        "created_at": seconds(view.created_at),
        "completed_at": seconds(view.finished_at),
        "expires_at": seconds(view.expires_at),
        "prompt": view.prompt,
        "size": f"{view.params['width']}x{view.params['height']}",
        "seconds": f"{view.params['durationSeconds']:g}",
        "remixed_from_video_id": None,
        "error": error,
    }


def _body(request: Request, body: bytes) -> dict[str, Any]:
    """Parses the body as JSON or as a multipart form, which OpenAI's clients send since it can carry a file.

    Raises `BadRequest`, also for a form with a file.
    """
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/"):
        return read_object(body)
    parts = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
    if not parts.is_multipart():
        raise BadRequest("The body must be a form.")
    fields: dict[str, Any] = {}
    for part in parts.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str) or name in fields:
            raise BadRequest("The form has a field without a name, or a field twice.")
        if part.get_filename() is not None or part.is_multipart():
            raise BadRequest("Files are not supported: videos are generated from text only.")
        payload = part.get_payload(decode=True) or b""
        assert isinstance(payload, bytes), "a part that is not multipart decodes to bytes"
        try:
            fields[name] = payload.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("The form must be in UTF-8.") from None
    return fields
