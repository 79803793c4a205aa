"""POST /v1/embeddings: one vector for each text. Event loop only.

When the client disconnects, the engine cancels the request.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import KeyDep, ServiceDep
from server.api.openai.embedding_schema import Embedding, read_embedding
from server.api.openai.wire import errors
from server.api.read_json import read_json
from server.api.shared.large_json import large_json
from server.api.wire import JsonObject, json_body
from server.http.sse import unless_disconnected
from server.service.embeddings import EmbeddingReply

router = APIRouter(tags=["OpenAI"])

INLINE_NUMBERS = 50_000  # fewer are written in a few milliseconds


@router.post(
    "/v1/embeddings",
    responses={200: {}, **errors(404, 413, 429)},
    openapi_extra=json_body(Embedding),
)
async def embeddings(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Returns a vector for each text, as OpenAI's embeddings do. Plans do not count embeddings."""
    call = await read_json(await request.body(), read_embedding)
    reply = await unless_disconnected(service.embeddings.embed(key, call.embedding_input), request.receive)
    if reply is None:
        return Response(status_code=204)  # the client has disconnected
    if reply.vectors.size <= INLINE_NUMBERS:
        return _reply(reply, in_base64=call.in_base64)
    return await asyncio.to_thread(_reply, reply, in_base64=call.in_base64)


def _reply(reply: EmbeddingReply, *, in_base64: bool) -> Response:
    body: JsonObject = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, in_base64)}
            for index, vector in enumerate(reply.vectors)
        ],
        "model": reply.model,
        "usage": {"prompt_tokens": reply.n_tokens, "total_tokens": reply.n_tokens},
    }
    if reply.warnings:
        body["warnings"] = list(reply.warnings)
    return large_json(body)


def _encoded(vector: NDArray[np.float32], in_base64: bool) -> Any:
    """Returns the numbers themselves, or base64 of float32 with the lowest byte first."""
    if in_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
