"""POST /api/models/check: what a folder, file or hub id is and whether it could be served, before it is added.

Event loop only; the files are read on a worker thread.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.check import DeviceMemory, Fits, State
from models.spec import ModelType
from server.api.catalogue import Source
from server.api.deps import KeyDep, LibraryDep, ServiceDep
from server.api.model_details import plain
from server.api.schemas import read_body, read_object
from server.api.strict_fields import Strict
from server.api.wire import Reply, errors, json_body

router = APIRouter()


class CheckedSource(Strict):
    source: Source


class PartReply(Reply):
    name: str
    cls: str
    files: dict[str, int]
    bytes: int
    dtypes: dict[str, int]


class CheckedDeviceReply(Reply):
    name: str
    total: int
    free: int


class CheckReply(Reply):
    source: str
    name: str
    servable: bool
    state: State
    reason: str
    missing: list[str]
    type: ModelType | None
    pipeline: str | None
    dtype: Literal["float32", "bfloat16"]
    weightBytes: int
    downloadBytes: int
    parts: list[PartReply]
    notes: list[str]
    base: str | None
    device: CheckedDeviceReply | None
    fits: Fits


@router.post("/api/models/check", responses={200: {"model": CheckReply}, **errors(413)},
             openapi_extra=json_body(CheckedSource))  # fmt: skip
async def check(request: Request, service: ServiceDep, library: LibraryDep, key: KeyDep) -> Response:
    """Tells what a folder, file or hub id is, what would be read, what is missing or odd, and whether it fits. Loads
    and changes nothing; of a repository that is not downloaded, only the configs are fetched. Needs an admin key.
    """
    key.require("admin")
    source = read_body(CheckedSource, read_object(await request.body())).source
    devices = service.live_jobs.devices()
    largest = max(devices, key=lambda device: device.total_bytes, default=None)
    memory = None if largest is None else DeviceMemory(largest.name, largest.total_bytes, largest.free_bytes)
    report = await library.check(source, service.auto_dtype, memory)
    found: dict[str, Any] = plain(report.as_json())
    return JSONResponse(found)
