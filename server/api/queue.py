"""GET /api/queue: the running jobs, the waiting jobs with the reason, and the seconds per step of each model.

Jobs of other keys appear without their ids and prompts. Event loop only.
"""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pipelines.interface import Stage
from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep
from server.api.wire import JsonObject, Reply, errors
from server.engine_status import QueueEntry, RunningEntry
from server.job import unstored_type
from server.service.service import Service

router = APIRouter()

SHOWN = 100  # waiting jobs that are listed; `length` and `reasons` count all of them


class EntryReply(Reply):
    jobId: str | None
    mine: bool
    type: str | None
    model: str | None
    etaSeconds: float | None


class RunningReply(EntryReply):
    stage: Stage | None
    step: int
    totalSteps: int
    progress: float | None


class WaitingReply(EntryReply):
    position: int
    waitingFor: str
    needBytes: int


class LaneReply(Reply):
    model: str
    type: str | None
    devices: list[str]
    state: str
    running: int
    merging: str
    bytes: int
    stepSeconds: float | None


class QueueView(Reply):
    running: list[RunningReply]
    waiting: list[WaitingReply]
    length: int
    reasons: dict[str, int]
    lanes: list[LaneReply]


@router.get("/api/queue", responses={200: {"model": QueueView}, **errors()})
async def queue(service: ServiceDep, key: KeyDep) -> Response:
    """Returns the running and the waiting jobs of all keys, and why jobs wait. Only the key's own jobs have an id."""
    running, waiting = service.live_jobs.running_and_queued()
    return JSONResponse(
        {
            "running": [_running_json(entry, service, key) for entry in running],
            "waiting": [_waiting_json(position, entry, service, key) for position, entry in enumerate(waiting[:SHOWN])],
            "length": max(len(waiting), service.live_jobs.n_queued),
            "reasons": Counter(entry.waiting_for for entry in waiting),
            "lanes": _lanes(service),
        }
    )


def _running_json(entry: RunningEntry, service: Service, key: ApiKey) -> JsonObject:
    job = service.live_jobs.get(entry.job_id)
    steps: JsonObject = {"stage": None, "step": 0, "totalSteps": 0, "progress": None}
    if job is not None:
        stage = service.live_jobs.stage_of(job)
        steps = {"stage": stage, "step": job.step, "totalSteps": job.total_steps, "progress": round(job.progress, 4)}
    return {**_identity(entry.job_id, service, key), **steps, "etaSeconds": _seconds(entry.eta_s)}


def _waiting_json(position: int, entry: QueueEntry, service: Service, key: ApiKey) -> JsonObject:
    return {
        **_identity(entry.job_id, service, key),
        "position": position,
        "waitingFor": entry.waiting_for,
        "needBytes": entry.need_bytes,
        "etaSeconds": _seconds(entry.eta_s),
    }


def _identity(job_id: str, service: Service, key: ApiKey) -> JsonObject:
    """Returns id, owner, type and model of a queue entry. A job that is not stored has no id and no model."""
    job = service.live_jobs.get(job_id)
    if job is None:
        return {"jobId": None, "mine": False, "type": unstored_type(job_id), "model": None}
    mine = job.row.key_id == key.id
    return {"jobId": job_id if mine else None, "mine": mine, "type": job.row.type, "model": job.row.model}


def _lanes(service: Service) -> list[JsonObject]:
    """Returns one entry for each model that is in memory, is being loaded or has failed to load."""
    types = {view.spec.name: view.spec.type for view in service.models.all()}
    return [
        {
            "model": status.model,
            "type": types.get(status.model),
            "devices": list(devices),
            "state": status.state,
            "running": status.running,
            "merging": status.merging,
            "bytes": status.weight_bytes + status.cache_bytes,
            "stepSeconds": _seconds(service.live_jobs.step_s(status.model)),
        }
        for status, devices in ((model.status, model.devices) for model in service.live_jobs.models())
    ]


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
