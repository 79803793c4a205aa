"""GET /api/webhooks/secret: the secret with which receivers verify webhook signatures. Event loop only."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep, ServiceDep
from server.api.wire import Reply, errors

router = APIRouter()


class SecretReply(Reply):
    secret: str


@router.get("/api/webhooks/secret", responses={200: {"model": SecretReply}, **errors()})
async def secret(service: ServiceDep, key: KeyDep) -> Response:
    """Returns the secret that signs the webhook calls of this key."""
    return JSONResponse({"secret": service.webhooks.secret_of(key.id)})
