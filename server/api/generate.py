"""POST /api/generate: accepts an image or video job. Event loop only."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.schemas import GenerateImage, GenerateVideo, read_generate, read_object
from server.api.wire import GenerateReply, errors, json_body
from server.errors import BadRequest
from server.store.usage import Kind

router = APIRouter()

IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "a repeated request with the same key and body within 24 hours returns the first job",
    "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
}


@router.post(
    "/api/generate",
    responses={200: {"model": GenerateReply}, **errors(404, 409, 413, 429)},
    openapi_extra=json_body(GenerateImage, GenerateVideo) | {"parameters": [IDEMPOTENCY]},
)
async def generate(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Accepts an image or video job; poll its status or read its events to learn when it has completed. Fields that are
    left out take the model's own defaults.
    """
    kinds: list[Kind] = ["images"]  # an error before the type is parsed reports this allowance
    async with allowance_on_error(request, service, key, kinds):
        raw = read_object(await request.body())
        if raw.get("type") == "video":
            kinds.append("videos")
        accepted = await service.submission.accept(key, read_generate(raw), _idempotency_key(request))
    reply = {"jobId": accepted.job_id, "status": "queued", "statusUrl": f"/api/status/{accepted.job_id}"}
    return JSONResponse(reply, headers=allowance_headers(service, accepted.allowance))


def _idempotency_key(request: Request) -> str | None:
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    if len(values) > 1 or not IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces.")
    return values[0]
