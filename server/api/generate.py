"""POST /api/generate: accepts an image or video job. Event loop only."""

from __future__ import annotations

import asyncio
import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep, allowance_headers, allowance_on_error
from server.api.ollama.reply import OllamaReply
from server.api.ollama.schema import OllamaCall, OllamaGenerate, is_generate
from server.api.ollama.schema import read_generate as read_ollama_generate
from server.api.ollama.talk import answer
from server.api.read_json import INLINE_BYTES, read_json
from server.api.schemas import GenerateImage, GenerateVideo, read_generate
from server.api.wire import GenerateReply, JsonObject, errors, json_body
from server.errors import BadRequest, TooLarge
from server.http.body import KIB, SMALL_BYTES, check_type
from server.store.usage import Kind

router = APIRouter()

WITH_PICTURES = frozenset({"image", "mask", "images", "last_image", "video", "control", "ip_adapter"})  # data URLs
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
    responses={
        200: {"model": GenerateReply | OllamaReply, "content": {"application/x-ndjson": {}}},
        **errors(404, 409, 413, 429),
    },
    openapi_extra=json_body(GenerateImage, GenerateVideo, OllamaGenerate) | {"parameters": [IDEMPOTENCY]},
)
async def generate(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Accepts an image or video job; poll its status or read its events to learn when it has completed. Fields that are
    left out take the model's own defaults. A body that has a `model` and no `type` is answered with text, as Ollama
    answers it.
    """
    kinds: list[Kind] = ["images"]  # an error before the type is parsed reports this allowance
    async with allowance_on_error(request, service, key, kinds):
        body = await request.body()
        raw = await _read(body)
        if isinstance(raw, OllamaCall):
            kinds.append("chats")
            return await answer(request, service, key, raw)
        check_type(request.headers)
        if raw.get("type") == "video":
            kinds.append("videos")
        wanted = read_generate(raw) if len(body) <= INLINE_BYTES else await asyncio.to_thread(read_generate, raw)
        del body, raw
        accepted = await service.submission.accept(key, wanted, _idempotency_key(request))
    reply = {"jobId": accepted.job_id, "status": "queued", "statusUrl": f"/api/status/{accepted.job_id}"}
    return JSONResponse(reply, headers=allowance_headers(service, accepted.allowance))


async def _read(body: bytes) -> OllamaCall | JsonObject:
    """Raises `BadRequest`, and `TooLarge` for a large body without pictures."""
    is_large = len(body) > SMALL_BYTES
    raw = await read_json(body, dict)
    if is_generate(raw):
        return await asyncio.to_thread(read_ollama_generate, raw) if is_large else read_ollama_generate(raw)
    if is_large and not WITH_PICTURES & raw.keys():
        limit = f"{SMALL_BYTES // KIB} KiB, the limit of an image or video job without pictures"
        raise TooLarge(f"The body is larger than {limit}.")
    return raw


def _idempotency_key(request: Request) -> str | None:
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    if len(values) > 1 or not IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters without spaces.")
    return values[0]
