"""POST /api/files with hundreds of odd, damaged and hostile files, over a real connection."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import Connection, select

from server.store import schema
from tests.support.http.front import front
from tests.support.http.http_front import listening
from tests.support.odd_files import all_cases, quick_cases
from tests.support.odd_files.case import Case

pytestmark = pytest.mark.anyio

LIMIT_S = 30.0  # a file that is not answered by then hangs; `benchmarks/odd_files.py` tells how long each takes
FIELDS = {"fileId", "mimeType", "width", "height", "durationSeconds", "bytes", "sha256", "expiresAt"}


async def test_odd_pictures_are_taken_as_people_expect_or_refused_with_the_reason(tmp_path: Path) -> None:
    assert await faults_of(tmp_path, quick_cases()) == []


@pytest.mark.slow
async def test_the_whole_corpus_is_taken_as_people_expect_or_refused_with_the_reason(tmp_path: Path) -> None:
    cases = list(all_cases())

    assert len(cases) > 300
    assert len({case.name for case in cases}) == len(cases)
    assert await faults_of(tmp_path, cases) == []


async def faults_of(folder: Path, cases: Iterable[Case]) -> list[str]:
    """Sends each file, and returns what is wrong with the answers and with what is kept."""
    faults = []
    async with front(folder) as f, listening(f) as url, httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as client:
        headers = f.auth("enterprise") | {"content-type": "image/png"}  # which is wrong for most
        for case in cases:
            reply = await client.post("/api/files", content=case.data, headers=headers)
            kept, num_frames = None, 0
            if reply.status_code == 200:
                kept = await client.get(f"/api/files/{reply.json()['fileId']}", headers=headers)
                num_frames = await f.database.read(functools.partial(frames_of, reply.json()["fileId"]))
            fault = fault_of(case, reply, kept, num_frames)
            if fault:
                faults.append(f"{case.name}: {fault}: {reply.text}")
        alive = await client.get("/healthz")
    return faults if alive.status_code == 200 else [*faults, "the server is dead"]


def frames_of(file_id: str, conn: Connection) -> int:
    return conn.execute(select(schema.input_files.c.num_frames).where(schema.input_files.c.id == file_id)).scalar_one()


def fault_of(case: Case, reply: httpx.Response, kept: httpx.Response | None, num_frames: int) -> str | None:
    body: Any = reply.json()
    if kept is None:
        if reply.status_code != 400 or set(body) != {"error", "code"}:
            return "is answered by another error"
        if case.size is None and not case.refused:
            return None if body["error"].startswith("file must be a") else "is refused for an unknown reason"
        return None if body["error"] in case.refused else "is refused for another reason"
    if case.size is None and case.refused:
        return "is taken"
    if set(body) != FIELDS or kept.status_code != 200 or body["bytes"] != len(case.data):
        return "has another reply"
    if case.size is not None and (body["width"], body["height"]) != case.size:
        return "has another size"
    if body["mimeType"].startswith("image/"):
        return look_at_picture(case, body, kept)
    if case.size is not None and not case.refused and num_frames != case.num_frames:
        return f"has {num_frames} frames"
    return None if kept.headers["content-type"] == body["mimeType"] else "is kept as another type"


def look_at_picture(case: Case, body: Any, kept: httpx.Response) -> str | None:
    with Image.open(io.BytesIO(kept.content)) as picture:
        picture.load()
        if picture.format != "PNG" or picture.mode not in ("L", "RGB", "RGBA"):
            return "is not kept as a PNG of eight bits"
        if picture.info or picture.size != (body["width"], body["height"]):
            return "is kept with metadata, or in another size"
        return None if case.look(picture) else "looks wrong"
