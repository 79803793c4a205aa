"""The service with a fake engine and a real store: no job is lost, and none is charged or ended twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.catalogue_reader import STILL_READ, RefusedModel
from server.accounts.quotas import DEFAULT_PLANS
from server.errors import Unavailable
from server.jobs import results
from server.jobs.encoding import EncodingFailed
from server.jobs.request.stored_request import engine_job
from server.marks import MARKS, Marks, note_stop
from server.protocol import LoadModel
from server.store import jobs as store
from server.store import schema
from tests.fakes import GIB, FakeCatalogue, small_catalogue
from tests.support.http.front import IMAGE, VIDEO, Front, front

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FailingWrites:
    """Makes the next `n` writes to the store fail."""

    def __init__(self, f: Front, n: int) -> None:
        self.left = n
        self._write = f.database.write
        f.database.write = self.write

    async def write(self, work: Callable[[Any], Any]) -> Any:
        if self.left > 0:
            self.left -= 1
            raise Unavailable("The job store cannot be reached at the moment.", retry_after_s=5)
        return await self._write(work)


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RETRY_S", (0.001,))


async def test_the_frame_rate_of_a_clip_reaches_its_pipeline(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        clip, image = f.engine.jobs[await f.submit(**VIDEO)], f.engine.jobs[await f.submit()]

    assert [job.requests[0].fps for job in (clip, image)] == [
        4,
        None,
    ]  # the default of the video model; images have none


async def test_a_restart_runs_unfinished_jobs_with_the_same_seeds(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        queued = await f.submit("free", n=2)
        running = await f.submit("free", **VIDEO)
        f.engine.start_job(running)
        await f.settle()
        before = dict(f.engine.jobs)
        keys = f.keys
    async with front(tmp_path, keys=keys) as f:
        assert await f.service.recovery.recover() == 2
        after = f.engine.jobs
        assert list(after) == [queued, running]
        assert after[queued] == before[queued]
        assert after[running].requests == before[running].requests
        f.engine.run(running)
        f.engine.run(queued)
        await f.settle()
        statuses = [await f.status(job_id, "free") for job_id in (queued, running)]

        assert [await f.used("images"), await f.used("videos")] == [2, 1]
    assert [status["status"] for status in statuses] == ["completed", "completed"]
    assert [output["seed"] - statuses[0]["params"]["seed"] for output in statuses[0]["outputs"]] == [0, 1]
    assert [status["attempt"] for status in statuses] == [1, 1]


async def test_a_job_that_was_at_work_when_the_process_ended_runs_again_alone_and_loses_an_attempt(
    tmp_path: Path,
) -> None:
    async with front(tmp_path) as f:
        suspect, bystander = await f.submit("free"), await f.submit("free")
        f.engine.start_job(suspect)
        f.engine.start_job(bystander)
        await f.settle()
        keys = f.keys
    Marks(tmp_path / "data" / MARKS).device(0).begin("step", "painter", [suspect])
    async with front(tmp_path, keys=keys) as f:
        await f.service.recovery.recover()
        alone = {job_id: job.alone for job_id, job in f.engine.jobs.items()}
        attempts = [(await f.status(job_id, "free"))["attempt"] for job_id in (suspect, bystander)]

    assert alone == {suspect: True, bystander: False}
    assert attempts == [2, 1]


async def test_a_job_fails_and_is_refunded_when_the_process_has_ended_three_times_at_work_on_it(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id, keys = await f.submit("free"), f.keys
    for _ in range(3):
        Marks(tmp_path / "data" / MARKS).device(0).begin("step", "painter", [job_id])
        async with front(tmp_path, keys=keys) as f:
            await f.service.recovery.recover()
            status, used = await f.status(job_id, "free"), await f.used("images")

    assert (status["status"], status["error"]["code"], used) == ("failed", "engine_stopped", 0)


async def test_a_planned_stop_costs_no_attempt(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id, keys = await f.submit("free"), f.keys
    for _ in range(4):
        Marks(tmp_path / "data" / MARKS).device(0).begin("step", "painter", [job_id])
        note_stop(tmp_path / "data" / MARKS)
        async with front(tmp_path, keys=keys) as f:
            await f.service.recovery.recover()
            attempt = (await f.status(job_id, "free"))["attempt"]

    assert attempt == 1


async def test_a_job_whose_model_is_gone_after_a_restart_fails_and_is_refunded(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id, keys = await f.submit("free"), f.keys
    async with front(tmp_path, keys=keys, catalogue=FakeCatalogue(small_catalogue().get("talker"))) as f:
        await f.service.recovery.recover()
        await f.settle()

        assert (await f.status(job_id, "free"))["error"]["code"] == "model_gone"
        assert await f.used("images") == 0


async def test_a_stored_job_that_no_longer_fits_fails_with_a_refund_and_does_not_stop_the_start(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        large, small, keys = await f.submit("free"), await f.submit("free", **VIDEO), f.keys
        used = await f.used("images")
    async with front(tmp_path, keys=keys, catalogue=small_catalogue(), usable_bytes=GIB // 2) as f:
        f.requirements.needs["filmer"] = GIB // 4  # the memory budget was lowered: only this model still fits
        assert await f.service.recovery.recover() == 2
        await f.settle()
        status = await f.status(large, "free")

        assert (status["status"], status["error"]["code"]) == ("failed", "does_not_fit")
        assert "1.0 GiB" in status["error"]["message"]
        assert status["error"]["retryable"] is False
        assert (used, await f.used("images")) == (1, 0)
        assert list(f.engine.jobs) == [small]


async def test_a_stored_job_that_cannot_be_decoded_fails_and_the_others_run(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        broken, fine, keys = await f.submit("free"), await f.submit("free"), f.keys
        await f.database.write(
            lambda conn: conn.execute(
                schema.jobs.update().where(schema.jobs.c.id == broken).values(request={"prompt": "of another version"})
            )
        )
    async with front(tmp_path, keys=keys) as f:
        await f.service.recovery.recover()
        await f.settle()

        assert (await f.status(broken, "free"))["error"]["code"] == "not_runnable"
        assert list(f.engine.jobs) == [fine]
        assert await f.used("images") == 1


async def test_a_left_over_that_cannot_be_removed_does_not_stop_the_start(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        (f.data_dir / "outputs" / "a folder").mkdir()
        (f.data_dir / "outputs" / "left-over.png").write_bytes(b"x")
        await f.service.recovery.recover()

        assert [path.name for path in (f.data_dir / "outputs").iterdir()] == ["a folder"]


async def test_a_model_larger_than_the_device_runs_and_loads_when_its_blocks_may_be_offloaded(
    tmp_path: Path,
) -> None:
    """An offloaded model needs less device memory than its weights, and every check uses that requirement."""
    async with front(tmp_path, usable_bytes=GIB // 2) as f:
        f.requirements.needs["painter"] = GIB // 4
        job_id = await f.submit()
        loaded = await f.post("/api/models/painter/load", key="admin")

        assert list(f.engine.jobs) == [job_id]
        assert loaded.status_code in (200, 202)
        assert f.engine.sent == [LoadModel("painter", GIB // 4)]


async def test_the_jobs_of_a_stopped_engine_run_again_after_a_restart(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id, keys = await f.submit(), f.keys
        f.engine.start_job(job_id)
        f.engine.fail(job_id, "engine_stopped")
        await f.settle()
        assert (await f.status(job_id))["status"] == "processing"
    async with front(tmp_path, keys=keys) as f:
        assert await f.service.recovery.recover() == 1


@pytest.mark.parametrize("end", ["completed", "failed", "canceled"])
async def test_the_end_of_a_job_is_stored_after_any_number_of_failed_writes(tmp_path: Path, end: str) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit("free")
        f.engine.start_job(job_id)
        await f.settle()
        failing = FailingWrites(f, 5)
        if end == "completed":
            f.engine.render(job_id)
        elif end == "failed":
            f.engine.fail(job_id)
        else:
            f.engine.confirm_cancel(job_id)
        await f.settle()

        assert failing.left == 0
        assert (await f.status(job_id, "free"))["status"] == end


async def test_a_job_that_could_not_be_stored_is_refused(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        FailingWrites(f, 1)
        refused = await f.post("/api/generate", IMAGE, "free")

        assert f.engine.jobs == {}
        assert await f.used("images") == 0
    assert (refused.status_code, refused.headers["retry-after"]) == (502, "5")


async def test_a_client_that_disconnects_during_the_write_leaves_a_job_that_runs(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        writing, write = asyncio.Event(), f.database.write

        async def signaling_write(work: Callable[[Any], Any]) -> Any:
            writing.set()
            return await write(work)

        f.database.write = signaling_write
        request = asyncio.create_task(f.post("/api/generate", IMAGE))
        await writing.wait()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await f.settle()

        (row,) = (await f.get("/api/jobs")).json()["jobs"]
        assert row["jobId"] in f.engine.jobs


async def test_200_concurrent_requests_get_exactly_what_the_plan_allows(tmp_path: Path) -> None:
    async with front(tmp_path, plans=_plans_with_free_images(50)) as f:
        replies = await asyncio.gather(*(f.post("/api/generate", IMAGE, "free") for _ in range(200)))
        ids = {reply.json()["jobId"] for reply in replies if reply.status_code == 200}

        assert await f.used("images") == 50
    assert sorted(reply.status_code for reply in replies) == [200] * 50 + [429] * 150
    assert len(ids) == 50


def _plans_with_free_images(images: int) -> dict[str, Any]:
    free = replace(DEFAULT_PLANS["free"], images=images, burst_per_minute=None, max_queued=None)
    return {**DEFAULT_PLANS, "free": free}


async def test_a_result_that_cannot_be_written_fails_the_job_and_is_refunded(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit("free")
        f.artifacts.save = _fail  # type: ignore[method-assign]  # simulates a full disk
        f.engine.run(job_id)
        await f.settle()
        status = await f.status(job_id, "free")

        assert await f.used("images") == 0
    assert status["error"] == {
        "code": "output_not_saved", "message": "The result could not be written to disk.", "retryable": True,
    }  # fmt: skip


async def _fail(*_: object) -> None:
    raise EncodingFailed("ffmpeg ended with code 1")


async def test_engine_events_after_a_cancellation_change_nothing(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit("free")
        await f.delete(f"/api/jobs/{job_id}", "free")
        f.engine.run(job_id)
        f.engine.fail(job_id)
        f.engine.confirm_cancel(job_id)
        await f.settle()

        assert (await f.status(job_id, "free"))["status"] == "canceled"
        assert await f.used("images") == 0
        assert not list((f.data_dir / "outputs").iterdir())


async def test_an_attempt_that_a_newer_one_replaced_removes_its_files(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        f.engine.start_job(job_id)
        await f.settle()
        await f.database.write(lambda conn: store.recover_jobs(conn, f.clock(), {job_id: "step"}))  # a newer attempt
        f.engine.render(job_id)
        await f.settle()

        assert not list((f.data_dir / "outputs").iterdir())


async def test_events_of_unknown_jobs_are_ignored(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        for event in (f.engine.start_job, f.engine.fail, f.engine.confirm_cancel):
            event("job_unknown")
        f.engine.say("chat_unknown", "x")
        await f.settle()


async def test_a_job_that_an_older_version_stored_runs_at_the_exact_speed(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(speed="fast")
        key_id = f.engine.jobs[job_id].owner
        row = await f.database.read(lambda conn: store.get_job(conn, job_id, key_id))
    older = replace(row, request={name: value for name, value in row.request.items() if name != "speed"})

    assert [job.requests[0].speed for job in (engine_job(row), engine_job(older))] == ["fast", "exact"]


async def test_the_engine_job_of_a_stored_job_is_always_the_same(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(n=2, deterministic=True)
        key_id = f.engine.jobs[job_id].owner
        row = await f.database.read(lambda conn: store.get_job(conn, job_id, key_id))

    assert engine_job(row) == f.engine.jobs[job_id]


async def test_a_job_whose_model_is_still_being_read_after_a_restart_waits_for_it(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id, keys = await f.submit("free"), f.keys
    catalogue = FakeCatalogue(small_catalogue().get("talker"))
    catalogue.refused = (RefusedModel("painter", STILL_READ.reason, STILL_READ.state),)  # type: ignore[assignment]
    async with front(tmp_path, keys=keys, catalogue=catalogue) as f:
        await f.service.recovery.recover()
        f.service.recovery.resume()
        await f.settle()
        assert (await f.status(job_id, "free"))["status"] == "queued"

        catalogue.refused = ()
        catalogue._specs["painter"] = small_catalogue().get("painter")
        f.service.recovery.resume()
        await f.settle()
        assert job_id in f.engine.jobs
