"""POST /v1/images/generations: submits an ordinary image job, waits for it and returns the images in the reply.

Event loop only.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.openai.image_schema import ImageGeneration, read_image
from server.api.openai.wire import errors, failure, seconds
from server.api.schemas import read_object
from server.api.wait_for_job import read_base64, wait_for_job
from server.api.wire import JsonObject, json_body
from server.job import State
from server.jobs.job_view import JobView
from server.service.service import Service

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/images/generations",
    responses={200: {}, **errors(404, 413, 429)},
    openapi_extra=json_body(ImageGeneration),
)
async def generations(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Generates images and returns them in the reply, as URLs, in base64 or both."""
    async with allowance_on_error(request, service, key, ["images"]):
        generate, response_format = read_image(read_object(await request.body()))
        accepted = await service.submission.accept(key, generate)
    view = await wait_for_job(service, key, accepted.job_id, request.receive)
    if view is None:
        return Response(status_code=204)  # the client has disconnected
    if view.status is not State.COMPLETED:
        raise failure(view)
    data = await _data(service, key, view, response_format, str(request.base_url))
    reply: JsonObject = {
        "created": seconds(view.created_at),
        "data": data,
        "size": f"{view.params['width']}x{view.params['height']}",
        "output_format": view.params["outputFormat"],
    }
    if view.warnings:
        reply["warnings"] = list(view.warnings)
    return JSONResponse(reply, headers=allowance_headers(service, accepted.allowance))


async def _data(
    service: Service, key: ApiKey, view: JobView, response_format: Literal["url", "b64_json"] | None, base_url: str
) -> list[JsonObject]:
    """Returns one entry per image. Without a `response_format` each has URL and base64, since clients read either."""
    assert view.expires_at is not None, "the files of a completed job have an expiry"
    data = []
    for output in view.outputs:
        entry: JsonObject = {}
        if response_format != "b64_json":
            entry["url"] = f"{base_url}api/files/{output.id}?{service.jobs.link(output, view.expires_at)}"
        if response_format != "url":
            entry["b64_json"] = await read_base64((await service.jobs.file(output.id, key))[1])
        if output.flagged:
            entry["flagged"] = True
        data.append(entry)
    return data
