"""/v1/videos: clips as OpenAI's clients make them: create, poll, download, delete. A video is an ordinary job of ours."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from server.accounts.auth import ApiKey
from server.api.deps import JOB_ID, KeyDep, ServiceDep, allowance_headers, counted
from server.api.files import BYTES, file_headers
from server.api.openai.schemas import Clip, read_clip
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
    State.CANCELED: "failed",  # OpenAI's clients know no other end
}
NO_SUCH_VIDEO = "There is no such video."


@router.post("/v1/videos", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Clip))
async def create(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    async with counted(request, service, key, ["videos"]):
        accepted = await service.accept(key, read_clip(_body(request, await request.body())))
    view = await service.status(key, accepted.job_id)
    return JSONResponse(_video(view), headers=allowance_headers(service, accepted.allowance))


@router.get("/v1/videos", responses={200: {}, **errors()})
async def videos(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Newest first."""
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
        cursor = await service.cursor_after(key, query["after"]) if JOB_ID.fullmatch(query["after"]) else None
        if cursor is None:
            raise BadRequest("after must be the id of one of your videos.")
    views, more = await service.list(key, None, int(limit), cursor, "video")
    data = [_video(view) for view in views]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": more is not None})


@router.get("/v1/videos/{video_id}", responses={200: {}, **errors(404)})
async def video(video_id: str, service: ServiceDep, key: KeyDep) -> Response:
    return JSONResponse(_video(await _find(service, key, video_id)))


@router.delete("/v1/videos/{video_id}", responses={200: {}, **errors(404)})
async def delete(video_id: str, service: ServiceDep, key: KeyDep) -> Response:
    """A video that is being made is canceled, a finished one's files are deleted."""
    view = await _find(service, key, video_id)
    await service.cancel(key, view.id)
    return JSONResponse({"id": view.id, "object": "video.deleted", "deleted": True})


@router.get(
    "/v1/videos/{video_id}/content",
    response_class=FileResponse,
    responses={200: BYTES, 206: BYTES, **errors(404, 416)},
)
async def content(
    video_id: str, request: Request, service: ServiceDep, key: KeyDep, variant: Literal["video"] = "video"
) -> Response:
    if any(name != "variant" for name in request.query_params):
        raise BadRequest("The query takes variant=video and nothing else.")
    view = await _find(service, key, video_id)
    if not view.outputs:
        raise NotFound("This video is not finished, or its file is gone.")
    output, path = await service.file(view.outputs[0].id, key)
    return FileResponse(path, media_type=output.mime_type, headers=file_headers(output))


async def _find(service: Service, key: ApiKey, video_id: str) -> JobView:
    if not JOB_ID.fullmatch(video_id):
        raise NotFound(NO_SUCH_VIDEO)
    view = await service.status(key, video_id)
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
    """JSON, or a form, which OpenAI's clients send because a form can carry a file. Ours takes none."""
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
            raise BadRequest("Files are not taken here: clips are made from text alone.")
        try:
            fields[name] = (part.get_payload(decode=True) or b"").decode("utf-8")  # type: ignore[union-attr]  # no parts, so bytes
        except UnicodeDecodeError:
            raise BadRequest("The form must be in UTF-8.") from None
    return fields
