"""GET /sdapi/v1/progress and POST /sdapi/v1/interrupt: the latest job of the key. Event loop only.

AUTOMATIC1111 runs one job at a time for everybody. Here, both refer to the latest job of the key.
"""

from __future__ import annotations

import base64

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.accounts.auth import ApiKey
from server.api.deps import KeyDep, ServiceDep
from server.api.wire import errors, timestamp
from server.job import State
from server.jobs.encoding import jpeg
from server.jobs.job_view import JobView
from server.service.service import Service

router = APIRouter()

LIVE = (State.PROCESSING, State.QUEUED)  # a running job counts before a waiting one


@router.get("/progress", responses={200: {}, **errors()})
async def progress(service: ServiceDep, key: KeyDep, skip_current_image: bool = False) -> Response:
    """Returns the progress of the key's latest job that has not ended; all values are zero when there is none.
    `current_image` is a preview, a JPEG in base64.
    """
    view = await _latest(service, key)
    preview = service.jobs.preview(key, view.id) if view and not skip_current_image else None
    state = {
        "skipped": False,
        "interrupted": False,
        "job": view.id if view else "",
        "job_count": 1 if view else 0,
        "job_timestamp": timestamp(view.created_at) if view else "0",
        "job_no": 0,
        "sampling_step": view.step if view else 0,
        "sampling_steps": view.total_steps if view else 0,
    }
    return JSONResponse(
        {
            "progress": round(view.progress, 4) if view else 0.0,
            "eta_relative": (view.eta_s or 0.0) if view else 0.0,
            "state": state,
            "current_image": None if preview is None else base64.b64encode(jpeg(preview)).decode(),
            "textinfo": view.stage if view else None,
        }
    )


@router.post("/interrupt", responses={200: {}, **errors(413)})
async def interrupt(service: ServiceDep, key: KeyDep) -> Response:
    """Cancels the key's latest job that has not ended; jobs of other keys go on."""
    view = await _latest(service, key)
    if view is not None:
        await service.jobs.cancel(key, view.id)
    return JSONResponse({})


async def _latest(service: Service, key: ApiKey) -> JobView | None:
    """Returns the key's latest running job, else its latest waiting job, else None."""
    for state in LIVE:
        for view in service.jobs.live(key):
            if view.status is state:
                return view
    return None
