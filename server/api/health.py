"""/healthz, /readyz and, with a key, the OpenAPI document. None of these routes waits for a device thread."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import KeyDep
from server.api.wire import ErrorReply, Reply
from server.errors import Unavailable

router = APIRouter()


class HealthReply(Reply):
    status: str


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses={200: {"model": HealthReply}})
async def healthz() -> Response:
    """Answers 200 while the server process responds."""
    return JSONResponse({"status": "ok"})


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={200: {"model": HealthReply}, 502: {"model": ErrorReply}})
async def readyz(request: Request) -> Response:
    """Answers 200 when jobs are accepted, else 502 with the reason."""
    reason = request.app.state.ready()
    if reason is not None:
        raise Unavailable(f"Not ready: {reason}.", retry_after_s=2)
    return JSONResponse({"status": "ready"})


@router.get("/api/openapi.json", include_in_schema=False)
async def openapi(request: Request, _: KeyDep) -> Response:
    return JSONResponse(request.app.openapi())
