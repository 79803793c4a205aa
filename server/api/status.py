"""GET /api/status/{job_id}: the state of one job. A live job is read from memory, a finished one from the store."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.api.deps import JobId, KeyDep, ServiceDep
from server.api.wire import StatusReply, errors, job_json

router = APIRouter()


@router.get("/api/status/{job_id}", responses={200: {"model": StatusReply}, **errors(404)})
async def status(job_id: JobId, service: ServiceDep, key: KeyDep) -> Response:
    """Returns the state of a job: stage, step and progress, its place in the queue while it waits, and its outputs or
    its error once it has ended.
    """
    return JSONResponse(job_json(await service.jobs.status(key, job_id), service.jobs.link))
