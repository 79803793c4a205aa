"""/v1/videos: creates, lists, polls, downloads and deletes videos in OpenAI's format. A video is an ordinary job.

Event loop only.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from server.accounts.auth import ApiKey
from server.api.deps import JOB_ID, KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.files import BYTES, file_headers
from server.api.openai.paging import page_reply, read_page
from server.api.openai.picture_fields import Picture, keep, picture_body, take_picture
from server.api.openai.video_schema import VideoCreation, VideoEdit, VideoRemix, read_video, read_video_edit
from server.api.openai.wire import errors, seconds
from server.api.schemas import read_body, read_object
from server.api.shared.form_fields import read_fields
from server.api.wire import JsonObject, json_body
from server.errors import BadRequest, NotFound
from server.job import State
from server.jobs.job_view import JobView
from server.jobs.request.generate_request import GenerateRequest
from server.jobs.submission import Accepted
from server.service.first_frame import first_frame
from server.service.picture_inputs import choose_way, taken, ways_to_take
from server.service.service import Service
from server.store.jobs import OutputRow

router = APIRouter(tags=["OpenAI"])

STATUSES = {
    State.QUEUED: "queued",
    State.PROCESSING: "in_progress",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELED: "failed",  # OpenAI's API has no canceled state
}
REFERENCED = "a picture or clip to start from"
CLIP = 'a clip to change, or an object like {"id": ID} with the id of one of your videos'
NO_SUCH_VIDEO = "There is no such video."


@router.post(
    "/v1/videos",
    responses={200: {}, **errors(404, 413, 429)},
    openapi_extra=picture_body(VideoCreation, input_reference=REFERENCED),
)
async def create(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Accepts a video job. The body is JSON or, as OpenAI's clients send it, a multipart form."""
    async with allowance_on_error(request, service, key, ["videos"]):
        fields = await read_fields(request)
        reference = take_picture(fields, "input_reference")
        wanted = read_video(fields)
        if reference is None:
            accepted = await service.submission.accept(key, wanted)
        else:
            accepted = await _accept(service, key, wanted, reference, "input_reference")
    return await _created(service, key, accepted)


@router.post(
    "/v1/videos/edits",
    responses={200: {}, **errors(404, 413, 429)},
    openapi_extra=picture_body(VideoEdit, video=CLIP),
)
async def edit(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Accepts a video job that changes a clip as a prompt says. The body is JSON, or a form with a file `video`."""
    async with allowance_on_error(request, service, key, ["videos"]):
        fields = await read_fields(request)
        match fields.get("video"):
            case {"id": str(video_id), **rest} if not rest:
                fields["video"] = _output(await _find(service, key, video_id)).id
        clip = take_picture(fields, "video")
        if clip is None:
            raise BadRequest(f"video is required: {CLIP}.", param="video")
        accepted = await _accept(service, key, read_video_edit(fields), clip, "video")
    return await _created(service, key, accepted)


@router.post(
    "/v1/videos/{video_id}/remix",
    responses={200: {}, **errors(404, 413, 429)},
    openapi_extra=json_body(VideoRemix),
)
async def remix(video_id: str, request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Accepts a video job like a completed one, with a new prompt and the same model, size, length and seed. It starts
    from the clip if the model takes clips, and from its first frame if the model takes pictures.
    """
    async with allowance_on_error(request, service, key, ["videos"]):
        prompt = read_body(VideoRemix, read_object(await request.body())).prompt
        earlier = await _find(service, key, video_id)
        accepted = await service.submission.accept(key, await _remixed(service, key, earlier, prompt))
    return await _created(service, key, accepted)


@router.get("/v1/videos", responses={200: {}, **errors()})
async def videos(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Lists the key's videos, newest first."""
    limit, after = read_page(request, usual=20, most=100)
    cursor = None
    if after is not None:
        cursor = await service.jobs.cursor_after(key, after) if JOB_ID.fullmatch(after) else None
        if cursor is None:
            raise BadRequest("after must be the id of one of your videos.")
    views, more = await service.jobs.list(key, None, limit, cursor, "video")
    return page_reply([_video(view) for view in views], more is not None)


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
    output, path = await service.jobs.file(_output(view).id, key)
    return FileResponse(path, media_type=output.mime_type, headers=file_headers(output))


async def _find(service: Service, key: ApiKey, video_id: str) -> JobView:
    if not JOB_ID.fullmatch(video_id):
        raise NotFound(NO_SUCH_VIDEO)
    view = await service.jobs.status(key, video_id)
    if view.type != "video":
        raise NotFound(NO_SUCH_VIDEO)
    return view


def _output(view: JobView) -> OutputRow:
    if not view.outputs:
        raise NotFound("This video is not finished, or its file is gone.")
    return view.outputs[0]


async def _accept(service: Service, key: ApiKey, wanted: GenerateRequest, media: Picture, place: str) -> Accepted:
    """Accepts a video that starts from a picture or clip."""
    if wanted.model is not None:
        service.limits.model(wanted.model, "video")  # before the file is kept
    row = (await keep(service, key, {place: media}))[place]
    ways = ways_to_take([row.id]) if row.fps is None else [{"video": row.id}]
    request, _ = choose_way(service.limits, service.catalogue, wanted, ways)
    return await service.submission.accept(key, request)


async def _remixed(service: Service, key: ApiKey, earlier: JobView, prompt: str) -> GenerateRequest:
    """Returns the request for a clip like an earlier one: from the clip, its first frame, or nothing, as the model
    can take it.
    """
    output, params = _output(earlier), earlier.params
    spec = service.limits.model(earlier.model, "video")
    wanted = GenerateRequest(
        type="video",
        prompt=prompt,
        model=spec.name,
        width=params["width"],
        height=params["height"],
        num_frames=params["numFrames"],
        seed=params["seed"],
        negative_prompt=params["negativePrompt"],
        loras=tuple((lora["name"], lora["weight"]) for lora in params["loras"]),
        speed=params["speed"],
        remixed_from=earlier.id,
    )
    found = taken(spec, wanted, [{"video": output.id}])
    if found is None and taken(spec, wanted, ways_to_take([output.id])) is not None:
        _, path = await service.jobs.file(output.id, key)
        frame = await service.input_files.add(key, await first_frame(path), listed=False, place="image")
        found = taken(spec, wanted, ways_to_take([frame.id]))
    return wanted if found is None else found[0]


async def _created(service: Service, key: ApiKey, accepted: Accepted) -> Response:
    view = await service.jobs.status(key, accepted.job_id)
    return JSONResponse(_video(view), headers=allowance_headers(service, accepted.allowance))


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
        "remixed_from_video_id": view.params.get("remixedFrom"),
        "error": error,
    }
