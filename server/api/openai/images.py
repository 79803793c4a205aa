"""POST /v1/images/generations: pictures in the reply itself. The job is an ordinary one, and the client waits for it."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep, allowance_headers, counted
from server.api.openai.schemas import Picture, read_picture
from server.api.openai.wire import errors, failure, seconds
from server.api.schemas import read_object
from server.api.wait_for_job import base64_of, finished
from server.api.wire import JsonObject, json_body
from server.job import State
from server.jobs.job_view import JobView
from server.service.service import Service

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/images/generations", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(Picture))
async def generations(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    async with counted(request, service, key, ["images"]):
        wanted, response_format = read_picture(read_object(await request.body()))
        accepted = await service.accept(key, wanted)
    view = await finished(service, key, accepted.job_id, request.receive)
    if view is None:
        return Response(status_code=204)  # nobody is there to read it
    if view.status is not State.COMPLETED:
        raise failure(view)
    data = await _data(service, key, view, response_format, str(request.base_url))
    sides = f"{view.params['width']}x{view.params['height']}"
    reply = {
        "created": seconds(view.created_at),
        "data": data,
        "size": sides,
        "output_format": view.params["outputFormat"],
    }
    return JSONResponse(reply, headers=allowance_headers(service, accepted.allowance))


async def _data(
    service: Service, key: ApiKey, view: JobView, response_format: Literal["url", "b64_json"] | None, base_url: str
) -> list[JsonObject]:
    """One entry a picture. A client that did not say how gets both: some read the one, some the other."""
    assert view.expires_at is not None, "a completed job has an end of its files"
    data = []
    for output in view.outputs:
        entry: JsonObject = {}
        if response_format != "b64_json":
            entry["url"] = f"{base_url}api/files/{output.id}?{service.link(output, view.expires_at)}"
        if response_format != "url":
            entry["b64_json"] = await base64_of((await service.file(output.id, key))[1])
        data.append(entry)
    return data
