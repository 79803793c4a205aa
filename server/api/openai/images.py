"""POST /v1/images/generations: submits an ordinary image job, waits for it and returns the images in the reply.

Event loop only.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.deps import KeyDep, ServiceDep, allowance_on_error
from server.api.openai.image_reply import image_reply
from server.api.openai.image_schema import ImageGeneration, read_image
from server.api.openai.wire import errors
from server.api.schemas import read_object
from server.api.wire import json_body

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
    return await image_reply(request, service, key, accepted, response_format)
