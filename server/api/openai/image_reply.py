"""Waits for an image job and sends its pictures in the reply, in OpenAI's format. Event loop only."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.accounts.auth import ApiKey
from server.api.deps import allowance_headers
from server.api.openai.image_schema import ResponseFormat
from server.api.openai.wire import failure, seconds
from server.api.wait_for_job import read_base64, wait_for_job
from server.api.wire import JsonObject
from server.job import State
from server.jobs.job_view import JobView
from server.jobs.submission import Accepted
from server.service.service import Service


async def image_reply(
    request: Request, service: Service, key: ApiKey, accepted: Accepted, response_format: ResponseFormat | None
) -> Response:
    """Raises the error of a job that did not complete. A client that disconnects cancels the job."""
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
    service: Service, key: ApiKey, view: JobView, response_format: ResponseFormat | None, base_url: str
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
