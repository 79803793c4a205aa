"""GET /api/queue: what runs, what waits and for what, and how fast steps go. Of other keys' jobs only their kind is told."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from pipelines.interface import Stage
from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep
from server.api.wire import JsonObject, Reply, errors
from server.protocol import QueueEntry, RunningEntry
from server.service.service import Service

router = APIRouter()

SHOWN = 100  # waiting jobs that are listed; those behind are counted


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
    """What runs and what waits and why, of all keys; only one's own jobs are told by their ids."""
    running, waiting = service.live_jobs.under_way()
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
    job = service.live_jobs.view(entry.job_id)
    told: JsonObject = {"stage": None, "step": 0, "totalSteps": 0, "progress": None}
    if job is not None:
        stage = service.live_jobs.stage_of(job)
        told = {"stage": stage, "step": job.step, "totalSteps": job.total_steps, "progress": round(job.progress, 4)}
    return {**_who(entry.job_id, service, key), **told, "etaSeconds": _seconds(entry.eta_s)}


def _waiting_json(position: int, entry: QueueEntry, service: Service, key: ApiKey) -> JsonObject:
    return {
        **_who(entry.job_id, service, key),
        "position": position,
        "waitingFor": entry.waiting_for,
        "needBytes": entry.need_bytes,
        "etaSeconds": _seconds(entry.eta_s),
    }


def _who(job_id: str, service: Service, key: ApiKey) -> JsonObject:
    """A chat is no job: it has no id to ask for, and its model is the engine's to know."""
    job = service.live_jobs.view(job_id)
    if job is None:
        return {"jobId": None, "mine": False, "type": "chat" if job_id.startswith("chat_") else None, "model": None}
    mine = job.row.key_id == key.id
    return {"jobId": job_id if mine else None, "mine": mine, "type": job.row.type, "model": job.row.model}


def _lanes(service: Service) -> list[JsonObject]:
    """One of each model that is in memory or on its way there."""
    types = {view.spec.name: view.spec.type for view in service.models()}
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
        for status, devices in ((picture.status, picture.devices) for picture in service.live_jobs.models())
    ]


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
