"""/api/jobs: lists, cancels and deletes the jobs of a key. Event loop only."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api.deps import JobId, KeyDep, ServiceDep
from server.api.wire import JobsReply, StatusReply, errors, job_json
from server.errors import BadRequest
from server.job import State

router = APIRouter()

FILTERS = ("status", "type", "limit", "cursor")


@router.get("/api/jobs", responses={200: {"model": JobsReply}, **errors()})
async def list_jobs(
    request: Request,
    service: ServiceDep,
    key: KeyDep,
    status: State | None = None,
    kind: Annotated[Literal["image", "video"] | None, Query(alias="type")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
) -> Response:
    """Lists the key's jobs, newest first. Pass `nextCursor` as `cursor` for the next page."""
    for name in request.query_params:
        if name not in FILTERS:
            raise BadRequest(f"The query takes {', '.join(FILTERS)}, each once, and nothing else.")
    jobs, after = await service.jobs.list(key, status, limit, cursor, kind)
    return JSONResponse({"jobs": [job_json(job, service.jobs.link) for job in jobs], "nextCursor": after})


@router.delete("/api/jobs/{job_id}", responses={200: {"model": StatusReply}, **errors(404)})
@router.post("/api/jobs/{job_id}/cancel", responses={200: {"model": StatusReply}, **errors(404, 413)})
async def cancel(job_id: JobId, service: ServiceDep, key: KeyDep) -> Response:
    """Cancels a waiting job at once and refunds it, cancels a running job before its next step, and deletes the files
    of a finished job.
    """
    return JSONResponse(job_json(await service.jobs.cancel(key, job_id), service.jobs.link))
