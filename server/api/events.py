"""Event streams: of one job, GET /api/jobs/:jobId/events, and of all of one's jobs, GET /api/events."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.accounts.auth import ApiKey
from server.api.deps import JobId, KeyDep, ServiceDep
from server.api.wire import JsonObject, errors, job_json, timestamp
from server.errors import BadRequest
from server.http.sse import COMMENT, EventStream, bookmark, event
from server.jobs.encoding import jpeg
from server.jobs.event_stream import Bookmark, JobEvent, KeepAlive
from server.service.service import Service

router = APIRouter()

STREAM: dict[str, Any] = {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "events"}
PREVIEW = {"name": "preview", "in": "query", "required": False, "schema": {"type": "string", "enum": ["0", "1"]}}
LAST_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}
EXTRA = {"parameters": [PREVIEW, LAST_ID]}


@router.get(
    "/api/jobs/{job_id}/events",
    response_class=Response,
    responses={200: STREAM, 204: {"description": "the reader has heard it all"}, **errors(404, 429)},
    openapi_extra=EXTRA,
)
async def of_job(request: Request, job_id: JobId, service: ServiceDep, key: KeyDep) -> Response:
    """Ends after the job's end. A browser's EventSource that comes back then gets 204 and stays away."""
    previews, after = _wishes(request)
    service.events.check_room(key)
    if await service.events.is_over(key, job_id, after):
        return Response(status_code=204)
    return EventStream(_told(service, key, job_id, previews, after))


@router.get("/api/events", response_class=Response, responses={200: STREAM, **errors(429)}, openapi_extra=EXTRA)
async def of_all(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """The events of all of one's jobs, for as long as one listens."""
    previews, after = _wishes(request)
    service.events.check_room(key)
    return EventStream(_told(service, key, None, previews, after))


def _wishes(request: Request) -> tuple[bool, int | None]:
    """Whether previews are wanted, and the last event the reader had."""
    query = request.query_params.multi_items()
    if (
        any(name != "preview" for name, _ in query)
        or len(query) > 1
        or query[:1] not in ([], [("preview", "0")], [("preview", "1")])
    ):
        raise BadRequest("The query takes preview=1 or preview=0 and nothing else.")
    said = request.headers.getlist("last-event-id")
    if len(said) > 1 or (said and not re.fullmatch(r"[0-9]{1,15}", said[0], re.ASCII)):
        raise BadRequest("Last-Event-ID must be the id of an event of this server.")
    return query == [("preview", "1")], int(said[0]) if said else None


async def _told(
    service: Service, key: ApiKey, job_id: str | None, previews: bool, after: int | None
) -> AsyncGenerator[bytes]:
    with service.events.watch(key, job_id, previews) as watch:
        async with aclosing(service.events.tell(key, watch, after)) as told:
            async for item in told:
                match item:
                    case KeepAlive():
                        yield COMMENT
                    case Bookmark(event_id):
                        yield bookmark(event_id)
                    case JobEvent():
                        yield event(item.name, event_json(item, service), item.id)


def event_json(told: JobEvent, service: Service) -> JsonObject:
    """An end carries the whole status, so that nobody needs to ask for it; the rest what may have changed."""
    everything = job_json(told.job, service.link)
    match told.name:
        case "queued":
            status = {"status": "queued", "createdAt": timestamp(told.job.created_at)}
            return {
                "jobId": told.job.id,
                **status,
                **_some(everything, "type", "model", "params", "warnings", "attempt"),
            }
        case "position" | "loading":
            return _some(everything, "jobId", "status", "model", "queue", "etaSeconds")
        case "progress":
            return _some(everything, "jobId", "status", "progress", "stage", "step", "totalSteps", "etaSeconds")
        case "preview":
            assert told.preview is not None
            image = base64.b64encode(jpeg(told.preview)).decode()
            return {**_some(everything, "jobId", "step", "totalSteps"), "mimeType": "image/jpeg", "image": image}
        case _:
            return everything


def _some(everything: JsonObject, *names: str) -> JsonObject:
    return {name: everything[name] for name in names}
