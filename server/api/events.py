"""Server-sent events for one job, GET /api/jobs/{job_id}/events, and for all jobs of a key, GET /api/events.

Event loop only.
"""

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
from server.api.wire import JsonObject, errors, job_json
from server.errors import BadRequest
from server.http.sse import COMMENT, EventStream, bookmark, event
from server.jobs.encoding import jpeg
from server.jobs.event_stream import JobEvent, StreamStart
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
    responses={200: STREAM, 204: {"description": "the client has already received the last event"}, **errors(404, 429)},
    openapi_extra=EXTRA,
)
async def job_events(request: Request, job_id: JobId, service: ServiceDep, key: KeyDep) -> Response:
    """Streams the events of one job; the stream ends after the job's last event. A browser's EventSource that
    reconnects after that gets 204, and then stops reconnecting.
    """
    previews, after = _options(request)
    service.events.check_limit(key)
    if await service.events.is_complete(key, job_id, after):
        return Response(status_code=204)
    return EventStream(_events(service, key, job_id, previews, after))


@router.get("/api/events", response_class=Response, responses={200: STREAM, **errors(429)}, openapi_extra=EXTRA)
async def all_events(request: Request, service: ServiceDep, key: KeyDep) -> Response:
    """Streams the events of all jobs of the key until the client disconnects."""
    previews, after = _options(request)
    service.events.check_limit(key)
    return EventStream(_events(service, key, None, previews, after))


def _options(request: Request) -> tuple[bool, int | None]:
    """Returns whether previews are requested, and the id of the last event the client received."""
    query = request.query_params.multi_items()
    if (
        any(name != "preview" for name, _ in query)
        or len(query) > 1
        or query[:1] not in ([], [("preview", "0")], [("preview", "1")])
    ):
        raise BadRequest("The query takes preview=1 or preview=0 and nothing else.")
    last_ids = request.headers.getlist("last-event-id")
    if len(last_ids) > 1 or (last_ids and not re.fullmatch(r"[0-9]{1,15}", last_ids[0], re.ASCII)):
        raise BadRequest("Last-Event-ID must be the id of an event of this server.")
    return query == [("preview", "1")], int(last_ids[0]) if last_ids else None


async def _events(
    service: Service, key: ApiKey, job_id: str | None, previews: bool, after: int | None
) -> AsyncGenerator[bytes]:
    with service.events.open(key, job_id, previews) as watch:  # raises before the first event: an ordinary 429
        if after is not None:
            yield COMMENT  # opens the stream at once: there may be nothing to say for long
        async with aclosing(service.events.stream(key, watch, after)) as items:
            async for item in items:
                match item:
                    case StreamStart(event_id):
                        yield bookmark(event_id)
                    case JobEvent():
                        yield event(item.name, event_json(item, service), item.id)


def event_json(job_event: JobEvent, service: Service) -> JsonObject:
    """Returns the data of one event: the whole status for a final event, else only the fields that may have changed."""
    status = job_json(job_event.job, service.jobs.link)
    match job_event.name:
        case "queued":
            # The job may have left the queue since the event was recorded.
            head = {"jobId": status["jobId"], "status": "queued", "createdAt": status["createdAt"]}
            return {**head, **_pick(status, "type", "model", "params", "warnings", "attempt")}
        case "position" | "loading":
            return _pick(status, "jobId", "status", "model", "queue", "etaSeconds")
        case "progress":
            return _pick(status, "jobId", "status", "progress", "stage", "step", "totalSteps", "etaSeconds")
        case "preview":
            assert job_event.preview is not None
            image = base64.b64encode(jpeg(job_event.preview)).decode()
            return {**_pick(status, "jobId", "step", "totalSteps"), "mimeType": "image/jpeg", "image": image}
        case _:
            return status


def _pick(status: JsonObject, *names: str) -> JsonObject:
    return {name: status[name] for name in names}
