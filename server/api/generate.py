"""POST /api/generate: a picture or a clip is accepted."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep, allowance_headers, counted
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
    "description": "for 24 hours the same key and body are one and the same job",
    "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
}


@router.post(
    "/api/generate",
    responses={200: {"model": GenerateReply}, **errors(404, 409, 413, 429)},
    openapi_extra=json_body(GenerateImage, GenerateVideo) | {"parameters": [IDEMPOTENCY]},
)
async def generate(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Hand in a picture or a clip; its status says when it is made. What is not said is the model's own default."""
    kinds: list[Kind] = ["images"]  # what an error before the type is known is told about
    async with counted(request, service, key, kinds):
        raw = read_object(await request.body())
        if raw.get("type") == "video":
            kinds.append("videos")
        accepted = await service.accept(key, read_generate(raw), _idempotency_key(request))
    reply = {"jobId": accepted.job_id, "status": "queued", "statusUrl": f"/api/status/{accepted.job_id}"}
    return JSONResponse(reply, headers=allowance_headers(service, accepted.allowance))


def _idempotency_key(request: Request) -> str | None:
    said = request.headers.getlist("idempotency-key")
    if not said:
        return None
    if len(said) > 1 or not IDEMPOTENCY_KEY.fullmatch(said[0]):
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces.")
    return said[0]
