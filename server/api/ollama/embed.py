"""POST /api/embed and the older /api/embeddings, as Ollama's clients call them. Event loop only."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipelines.embedding_interface import TextOptions
from server.api.deps import KeyDep, ServiceDep
from server.api.ollama.keep_alive import KEEP_ALIVE, keep, read_keep_alive
from server.api.ollama.names import shown_name
from server.api.read_json import read_json
from server.api.schemas import read_body
from server.api.shared.client_json import readable
from server.api.shared.field_types import Lenient, Whole
from server.api.shared.large_json import large_json
from server.api.strict_fields import ModelName
from server.api.wire import errors, json_body
from server.errors import BadRequest
from server.http.sse import unless_disconnected
from server.service.embeddings import MAX_TEXTS, EmbeddingInput, EmbeddingReply

router = APIRouter(tags=["Ollama"])

INPUT = f"a text, or a list of at most {MAX_TEXTS} texts"
INLINE_NUMBERS = 50_000  # fewer are written in a few milliseconds


class EmbedFields(Lenient):
    model: ModelName
    options: dict[str, Any] | None = Field(None, description="an object; no option changes an embedding")
    keep_alive: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]})] = Field(
        None, description=KEEP_ALIVE
    )
    truncate: bool | None = Field(None, description="true, the default, to cut texts that are too long, or false")


class OllamaEmbed(EmbedFields):
    input: str | Annotated[list[str], Field(max_length=MAX_TEXTS)] = Field(description=INPUT)
    dimensions: Annotated[Whole, Field(ge=0, le=65_536)] | None = Field(
        None, description="a whole number: only so many first values of each vector are returned"
    )


class OllamaEmbeddings(EmbedFields):
    prompt: str = Field(description="text")


@router.post("/api/embed", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(OllamaEmbed))
async def embed(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Returns a vector of length 1 for each text, as Ollama does. Plans do not count embeddings."""
    began_at = time.monotonic()
    body = await read_json(await request.body(), lambda raw: read_body(OllamaEmbed, raw))
    texts = [body.input] if isinstance(body.input, str) else body.input
    embedded = await _embed(request, service, key, body, texts, normalize=True, dimensions=body.dimensions or None)
    if embedded is None:
        return Response(status_code=204)  # the client has disconnected
    model, reply = embedded
    taken = round((time.monotonic() - began_at) * 1e9)
    numbers = {"total_duration": taken, "prompt_eval_count": reply.n_tokens if reply else 0}
    noted = {"warnings": list(reply.warnings)} if reply and reply.warnings else {}

    def written() -> Response:
        vectors = reply.vectors.tolist() if reply else []
        return large_json({"model": model, "embeddings": vectors, **numbers, **noted})

    return written() if reply is None or reply.vectors.size <= INLINE_NUMBERS else await asyncio.to_thread(written)


@router.post("/api/embeddings", responses={200: {}, **errors(404, 413, 429)}, openapi_extra=json_body(OllamaEmbeddings))
async def embeddings(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Returns the vector of one text, as older clients of Ollama ask for it."""
    body = await read_json(await request.body(), lambda raw: read_body(OllamaEmbeddings, raw))
    embedded = await _embed(request, service, key, body, [body.prompt] if body.prompt else [])
    if embedded is None:
        return Response(status_code=204)  # the client has disconnected
    reply = embedded[1]
    return JSONResponse({"embedding": reply.vectors[0].tolist() if reply else []})


async def _embed(
    request: Request,
    service: ServiceDep,
    key: KeyDep,
    body: EmbedFields,
    texts: list[str],
    *,
    normalize: bool | None = None,
    dimensions: int | None = None,
) -> tuple[str, EmbeddingReply | None] | None:
    """Returns the model's name, and the vectors if there are texts; None when the client has disconnected first."""
    if any(not text for text in texts):
        raise BadRequest("input must not have empty texts.", param="input")
    for text in texts:
        readable(text, "input")
    seconds = read_keep_alive(body.keep_alive)
    spec = service.limits.model(body.model, "embedding")
    if not texts:
        return shown_name(spec), None
    asked = EmbeddingInput(
        inputs=texts,
        model=body.model,
        dimensions=dimensions,
        normalize=normalize,
        options=TextOptions(truncate=body.truncate is not False),
    )
    reply = await unless_disconnected(service.embeddings.embed(key, asked), request.receive)
    if reply is None:
        return None
    await keep(service, key, spec, seconds)
    return shown_name(spec), reply
