"""GET /api/queue: the running and waiting jobs of all keys, without the ids of other keys' jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engine_status import ModelStatus
from server.jobs.live_jobs import LiveJobs
from server.protocol import JobProgressed, JobStarted
from tests.support.http.front import VIDEO, front

pytestmark = pytest.mark.anyio


async def test_the_queue_shows_reasons_and_hides_the_ids_of_other_keys(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        running, mine, foreign = await f.submit(), await f.submit(), await f.submit("pro", **VIDEO)
        f.engine.start_job(running)
        f.engine.progress(running, "denoising", 2)
        f.engine.publish(
            queue=[(mine, "turn", 3.0), (foreign, "gpu_memory", None), ("chat_1", "turn", None)],
            running=[(running, 1.5)],
            models=[ModelStatus("painter", "resident", 100, 0, "proven", 1, None)],
        )
        queue = (await f.get("/api/queue")).json()

    assert queue["running"] == [
        {"jobId": running, "mine": True, "type": "image", "model": "painter", "stage": "denoising", "step": 2,
         "totalSteps": 4, "progress": 0.485, "etaSeconds": pytest.approx(1.5, abs=1)}
    ]  # fmt: skip
    assert [(job["jobId"], job["type"], job["waitingFor"], job["position"]) for job in queue["waiting"]] == [
        (mine, "image", "turn", 0),
        (None, "video", "gpu_memory", 1),
        (None, "chat", "turn", 2),
    ]
    assert queue["reasons"] == {"turn": 2, "gpu_memory": 1}
    assert queue["length"] == 3
    (lane,) = queue["lanes"]
    assert (lane["model"], lane["type"], lane["state"], lane["running"], lane["merging"], lane["bytes"]) == (
        "painter", "image", "resident", 1, "proven", 100,
    )  # fmt: skip


async def test_the_queue_is_empty_before_the_first_engine_status(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        queue = (await f.get("/api/queue")).json()

    assert queue == {"running": [], "waiting": [], "length": 0, "reasons": {}, "lanes": []}


async def test_the_step_time_is_the_time_between_two_progress_reports(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        row = f.service.live_jobs.get(job_id).row  # type: ignore[union-attr]  # the job is live
    now = 100.0
    live_jobs = LiveJobs(clock=lambda: now)
    live_jobs.add(row)
    live_jobs.start(JobStarted(job_id, 0, 0), f.clock())
    for step, at in ((1, 107.0), (1, 107.3), (2, 107.5), (4, 108.5)):
        now = at
        live_jobs.update_progress(JobProgressed(job_id, "denoising", step, 8))

    assert live_jobs.step_s("filmer") is None
    assert live_jobs.step_s("painter") == pytest.approx(0.5)
