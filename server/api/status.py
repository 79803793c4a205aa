"""GET /api/status/:jobId: how a job stands, cheaply: a live one is read from the board."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.api.deps import JobId, KeyDep, ServiceDep
from server.api.wire import StatusReply, errors, job_json

router = APIRouter()


@router.get("/api/status/{job_id}", responses={200: {"model": StatusReply}, **errors(404)})
async def status(job_id: JobId, service: ServiceDep, key: KeyDep) -> Response:
    """How a job stands: its stage, step and progress, its place while it waits, its outputs or its error once it has ended."""
    return JSONResponse(job_json(await service.status(key, job_id), service.link))
