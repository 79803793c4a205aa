"""Status, list, cancel and delete of jobs, for their owner and for other keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.interface import Sound
from tests.support.http.front import VIDEO, front

pytestmark = pytest.mark.anyio

STATUS_FIELDS = {
    "jobId", "status", "type", "model", "prompt", "createdAt", "startedAt", "finishedAt", "expiresAt", "progress",
    "stage", "step", "totalSteps", "queue", "etaSeconds", "params", "warnings", "outputs", "error", "attempt",
    "metrics",
}  # fmt: skip


@pytest.mark.parametrize(
    ("output_format", "warnings"),
    [("mp4", []), ("gif", ["A GIF has no sound: the sound that the model generated was left out."])],
)
async def test_a_videos_sound_is_in_its_file_or_a_warning_tells_that_it_is_not(
    tmp_path: Path, output_format: str, warnings: list[str]
) -> None:
    sound = Sound(np.zeros((2, 4800), np.float32), 24_000)
    async with front(tmp_path) as f:
        job_id = await f.submit(**VIDEO, num_frames=9, output_format=output_format)
        f.engine.start_job(job_id)
        f.engine.render(job_id, sound=sound)
        await f.settle()
        done = await f.status(job_id)
        clip = (await f.client.get(done["outputs"][0]["url"])).content

    assert (done["status"], done["warnings"]) == ("completed", warnings)
    assert (b"mp4a" in clip) == (output_format == "mp4")


async def test_the_status_of_a_job_from_the_queue_to_its_image(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(seed=5)
        waiting = await f.status(job_id)
        f.engine.start_job(job_id)
        f.engine.progress(job_id, "denoising", 2)
        running = await f.status(job_id)
        f.clock.forward(seconds=2)
        f.engine.render(job_id)
        await f.settle()
        done = await f.status(job_id)

    assert waiting.keys() == running.keys() == done.keys() == STATUS_FIELDS
    assert waiting["createdAt"] == "2026-11-24T09:00:00.000Z"
    assert (waiting["status"], waiting["stage"], waiting["progress"], waiting["totalSteps"]) == (
        "queued",
        "waiting",
        0,
        4,
    )
    assert waiting["queue"] == {"position": 0, "length": 1, "waitingFor": "turn", "needBytes": 0, "freeBytes": 0}
    assert (running["status"], running["stage"], running["step"], running["queue"]) == (
        "processing",
        "denoising",
        2,
        None,
    )
    assert 0.4 < running["progress"] < 0.6
    assert (done["status"], done["stage"], done["progress"], done["step"]) == ("completed", "done", 1, 4)
    assert done["startedAt"] == "2026-11-24T09:00:00.000Z"
    assert done["finishedAt"] == "2026-11-24T09:00:02.000Z"
    assert done["expiresAt"] == "2026-11-25T09:00:02.000Z"
    assert done["params"]["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    assert done["metrics"] == {"queueMs": 7, "loadMs": 3, "runMs": 2000, "batchPeak": 2, "peakBytes": None}
    assert done["error"] is None
    (output,) = done["outputs"]
    assert (output["mimeType"], output["width"], output["height"], output["seed"]) == ("image/png", 64, 64, 5)


async def test_the_status_of_a_waiting_job_has_its_place_and_the_reason(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first, second = await f.submit(), await f.submit()
        f.engine.publish(queue=[(first, "turn", 3.0), (second, "model_load", None)])
        statuses = [await f.status(job_id) for job_id in (first, second)]

    assert [status["queue"]["position"] for status in statuses] == [0, 1]
    assert statuses[1]["queue"] == {
        "position": 1, "length": 2, "waitingFor": "model_load", "needBytes": 2**30, "freeBytes": 5 * 2**30,
    }  # fmt: skip
    assert statuses[1]["stage"] == "loading_model"
    assert 2.5 < statuses[0]["etaSeconds"] <= 3.0
    assert statuses[1]["etaSeconds"] is None


async def test_a_poll_of_a_live_job_does_not_touch_the_store(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        read = f.database.read
        f.database.read = None  # a call would raise
        status = await f.status(job_id)
        f.database.read = read

    assert status["status"] == "queued"


async def test_a_job_is_completed_only_when_its_outputs_are_stored(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        f.engine.run(job_id)
        saving = await f.status(job_id)
        await f.settle()

    assert (saving["status"], saving["stage"]) == ("processing", "saving")


async def test_a_failed_job_has_a_reason_and_is_refunded(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit("free", n=3)
        f.engine.start_job(job_id)
        f.engine.fail(job_id, "out_of_memory", "Not enough memory at 64x64.")
        await f.settle()
        status = await f.status(job_id, "free")

        assert await f.used("images") == 0
    assert status["status"] == "failed"
    assert status["error"] == {"code": "out_of_memory", "message": "Not enough memory at 64x64.", "retryable": True}
    assert status["progress"] < 1


async def test_a_job_that_renders_nan_fails_and_leaves_no_file(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit("free", n=2)
        f.engine.start_job(job_id)
        f.engine.render(job_id, 0)
        await f.settle()
        f.engine.render(job_id, 1, value=float("nan"))
        await f.settle()
        status = await f.status(job_id, "free")

        assert await f.used("images") == 0
        assert f.engine.canceled == [job_id]
        assert not list((f.data_dir / "outputs").iterdir())
    assert status["error"]["code"] == "invalid_output"
    assert status["outputs"] == []


async def test_a_queued_job_is_canceled_at_once_and_refunded_once(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit("free")
        first = await f.delete(f"/api/jobs/{job_id}", "free")
        f.engine.confirm_cancel(job_id)
        again = await f.post(f"/api/jobs/{job_id}/cancel", key="free")
        await f.settle()

        assert await f.used("images") == 0
        assert f.engine.canceled == [job_id]
        assert (await f.status(job_id, "free"))["status"] == "canceled"
    assert (first.status_code, first.json()["status"]) == (200, "canceled")
    assert (again.status_code, again.json()["status"]) == (200, "canceled")


async def test_a_running_job_is_canceled_when_the_engine_confirms_and_stays_charged(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit("free")
        f.engine.start_job(job_id)
        requested = await f.post(f"/api/jobs/{job_id}/cancel", key="free")
        f.engine.confirm_cancel(job_id)
        await f.settle()

        assert (await f.status(job_id, "free"))["status"] == "canceled"
        assert await f.used("images") == 1
    assert (requested.status_code, requested.json()["status"]) == (200, "processing")


async def test_a_cancel_while_the_output_is_saved_removes_the_output(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit()
        f.engine.run(job_id)
        await f.delete(f"/api/jobs/{job_id}")
        await f.settle()

        assert (await f.status(job_id))["status"] == "canceled"
        assert not list((f.data_dir / "outputs").iterdir())


async def test_deleting_a_finished_job_removes_its_files_and_its_record(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        done = await f.complete()
        url = done["outputs"][0]["url"]
        deleted = await f.delete(f"/api/jobs/{done['jobId']}")
        again = [await f.get(f"/api/status/{done['jobId']}"), await f.delete(f"/api/jobs/{done['jobId']}")]
        file = await f.client.get(url)

        assert not list((f.data_dir / "outputs").iterdir())
    assert (deleted.status_code, deleted.json()["outputs"]) == (200, [])
    assert [reply.status_code for reply in again] == [404, 404]
    assert file.status_code == 404


async def test_unknown_foreign_and_deleted_jobs_give_the_same_404(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        live, done, deleted = await f.submit(), await f.complete(), await f.complete()
        await f.delete(f"/api/jobs/{deleted['jobId']}")
        unknown = "job_1767225600_" + "0" * 22
        ids = [live, done["jobId"], deleted["jobId"], unknown, "job_1", "x" * 5000, "%00", "%ED%A0%80", "..%2f..%2fetc"]
        replies = []
        for job_id in ids:
            replies.append(await f.get(f"/api/status/{job_id}", "other"))
            replies.append(await f.delete(f"/api/jobs/{job_id}", "other"))
            replies.append(await f.post(f"/api/jobs/{job_id}/cancel", key="other"))

        assert (await f.status(live))["status"] == "queued"
        assert len((await f.status(done["jobId"]))["outputs"]) == 1
    here = [reply for reply in replies if "etc" not in str(reply.url)]
    assert {(reply.status_code, reply.content) for reply in here} == {
        (404, b'{"error":"There is no such job.","code":404}')
    }
    assert {reply.status_code for reply in replies} == {404}


async def test_the_keys_own_jobs_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        mine = [await f.submit() for _ in range(3)]
        await f.submit("other")
        f.engine.run(mine[0])
        await f.settle()
        first = (await f.get("/api/jobs?limit=2")).json()
        second = (await f.get(f"/api/jobs?limit=2&cursor={first['nextCursor']}")).json()
        queued = (await f.get("/api/jobs?status=queued")).json()

    assert [job["jobId"] for job in first["jobs"] + second["jobs"]] == mine[::-1]
    assert second["nextCursor"] is None
    assert [job["jobId"] for job in queued["jobs"]] == [mine[2], mine[1]]
    assert first["jobs"][0].keys() == STATUS_FIELDS


@pytest.mark.parametrize(
    "query",
    ["status=done", "limit=0", "limit=101", "limit=x", "cursor=zzz", "cursor=", "sort=up", "limit=5&status=queued&x"],
)
async def test_an_undocumented_query_of_the_list_is_refused(tmp_path: Path, query: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.get(f"/api/jobs?{query}")

    assert reply.status_code == 400
    assert reply.json().keys() == {"error", "code"}


async def test_jobs_are_listed_by_type(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        image, video = await f.submit(), await f.submit(**VIDEO)
        images = (await f.get("/api/jobs?type=image")).json()["jobs"]
        videos = (await f.get("/api/jobs?type=video")).json()["jobs"]
        invalid = await f.get("/api/jobs?type=chat")

    assert ([job["jobId"] for job in images], [job["jobId"] for job in videos]) == ([image], [video])
    assert (invalid.status_code, invalid.json()["error"]) == (400, "type must be image or video.")
