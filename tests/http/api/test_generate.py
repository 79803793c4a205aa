"""POST /api/generate: accepted jobs and their defaults, refused requests, charges and idempotency."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.diffusion_interface import DiffusionRequest
from server.job import State
from tests.support.http.front import IMAGE, VIDEO, Front, front

pytestmark = pytest.mark.anyio


async def accepted(f: Front, body: dict[str, Any]) -> tuple[DiffusionRequest, dict[str, Any]]:
    """Submits a job and returns the engine's first request and the job's status."""
    reply = await f.post("/api/generate", body)
    assert reply.status_code == 200, reply.text
    job_id = reply.json()["jobId"]
    request = f.engine.jobs[job_id].requests[0]
    assert isinstance(request, DiffusionRequest)
    return request, await f.status(job_id)


async def test_the_documented_example_is_queued(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/generate", IMAGE | {"aspect_ratio": "16:9"})

    assert reply.status_code == 200
    assert reply.json().keys() == {"jobId", "status", "statusUrl"}
    assert re.fullmatch(r"job_\d{10}_[0-9A-Za-z]{22}", reply.json()["jobId"])
    assert reply.json()["status"] == "queued"
    assert reply.json()["statusUrl"] == f"/api/status/{reply.json()['jobId']}"


async def test_omitted_fields_take_the_models_defaults_and_are_in_the_status(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        request, status = await accepted(f, IMAGE)

    assert (request.width, request.height, request.steps, request.guidance_scale) == (64, 64, 4, 3.0)
    assert request.call == {"shift": 2.0}
    assert request.id == f"{status['jobId']}/0"
    names = ("width", "height", "steps", "guidanceScale", "seed", "dtype")
    assert {name: status["params"][name] for name in names} == {
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidanceScale": 3.0,
        "seed": request.seed,
        "dtype": "float32",
    }
    assert "numFrames" not in status["params"]


async def test_each_output_of_a_job_has_the_next_seed(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        job_id = await f.submit(n=3, seed=41)
        seeds = [(request.id, request.seed) for request in f.engine.jobs[job_id].requests]

    assert seeds == [(f"{job_id}/0", 41), (f"{job_id}/1", 42), (f"{job_id}/2", 43)]


async def test_the_speed_reaches_the_engine_and_the_status_and_is_exact_by_default(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        fast, status = await accepted(f, VIDEO | {"speed": "fast"})
        usual, usual_status = await accepted(f, IMAGE)

    assert (fast.speed, status["params"]["speed"]) == ("fast", "fast")
    assert (usual.speed, usual_status["params"]["speed"]) == ("exact", "exact")


async def test_omitted_seeds_differ(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        seeds = {f.engine.jobs[await f.submit()].requests[0].seed for _ in range(5)}

    assert len(seeds) == 5  # two equal seeds have a probability of 2^-44


@pytest.mark.parametrize(("ratio", "size"), [("1:1", (64, 64)), ("16:9", (88, 48)), ("9:16", (48, 88))])
async def test_a_ratio_becomes_the_nearest_size_of_the_native_area(
    tmp_path: Path, ratio: str, size: tuple[int, int]
) -> None:
    async with front(tmp_path) as f:
        request, _ = await accepted(f, IMAGE | {"aspect_ratio": ratio})

    assert (request.width, request.height) == size


async def test_a_size_that_the_model_declares_wins_over_the_computed_one(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        request, _ = await accepted(f, VIDEO | {"aspect_ratio": "9:16"})

    assert (request.width, request.height) == (32, 64)


@pytest.mark.parametrize(
    ("fields", "frames"), [({}, 9), ({"duration": 10}, 41), ({"duration": 1}, 5), ({"num_frames": 13}, 13)]
)
async def test_a_duration_becomes_a_number_of_frames_that_the_model_supports(
    tmp_path: Path, fields: dict[str, int], frames: int
) -> None:
    async with front(tmp_path) as f:
        request, status = await accepted(f, VIDEO | fields)

    assert request.num_frames == frames
    assert (status["params"]["numFrames"], status["params"]["fps"]) == (frames, 4)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (IMAGE | {"width": 64}, "width and height must be given together."),
        (IMAGE | {"width": 64, "height": 64, "aspect_ratio": "1:1"}, "exclude each other"),
        (IMAGE | {"width": 60, "height": 64}, "width must be a multiple of 8 for painter, for example 56 or 64."),
        (IMAGE | {"width": 1024, "height": 1024}, "width times height must be at most 262144 pixels"),
        (IMAGE | {"steps": 101}, "steps must be at most 100 for painter."),
        (IMAGE | {"n": 8, "seed": 2**63 - 7}, "seed must be at most 9223372036854775807 - (n - 1)"),
        (IMAGE | {"model": "filmer"}, "model filmer is for video, not for image."),
        (IMAGE | {"model": "talker"}, "model talker is for chat, not for image."),
        (IMAGE | {"model": "giant"}, "giant needs 99.0 GiB, this device has 8.0 GiB"),
        (IMAGE | {"duration": 3}, "duration does not belong to a job of this type."),
        (VIDEO | {"n": 1}, "n does not belong to a job of this type."),
        (IMAGE | {"output_format": "mp4"}, "output_format must be one of png, webp, jpeg."),
        (VIDEO | {"duration": 13}, "duration must be at most 12 seconds for filmer."),
        (VIDEO | {"duration": 2, "num_frames": 9}, "duration and num_frames exclude each other"),
        (VIDEO | {"num_frames": 10}, "num_frames must be a multiple of 4 plus 1 for filmer, for example 9."),
        (VIDEO | {"num_frames": 53}, "num_frames must be at most 49 for filmer"),
        (IMAGE | {"loras": []}, "loras must be a list of 1 to 8 objects"),
        (IMAGE | {"loras": [{"name": "../ink"}]}, "the name from GET /api/loras and without / or \\"),
        (IMAGE | {"loras": [{"name": "add détail (v2.0)"}]}, "loras: painter does not support LoRAs."),
        (IMAGE | {"loras": [{"name": "ink"}]}, "loras: painter does not support LoRAs."),
        (IMAGE | {"scheduler": "DDIMScheduler"}, "scheduler: the scheduler of painter cannot be changed."),
        (IMAGE | {"webhook_url": "http://127.0.0.1/"}, "webhook_url must be an address outside"),
        (IMAGE | {"aspect_ration": "1:1"}, "Unknown field aspect_ration; did you mean aspect_ratio?"),
    ],
)
async def test_an_impossible_request_is_refused_with_the_reason(
    tmp_path: Path, body: dict[str, Any], text: str
) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/generate", body, "free")

        assert await f.used("images") == 0
    assert reply.status_code == 400
    assert text in reply.json()["error"]


async def test_an_unknown_model_is_a_404_that_tells_how_to_pull_it(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await f.post("/api/generate", IMAGE | {"model": "paintr"})

    assert reply.status_code == 404
    assert "try: pull paintr" in reply.json()["error"]
    assert "nearest name is painter" in reply.json()["error"]


async def test_a_plan_is_charged_up_to_its_limit(tmp_path: Path) -> None:
    async with front(tmp_path, plans=_without_burst_limit()) as f:
        for left in range(9, -1, -1):
            reply = await f.post("/api/generate", IMAGE, "free")
            assert reply.headers["x-ratelimit-remaining"] == str(left)
            f.engine.run(reply.json()["jobId"])
        refused = await f.post("/api/generate", IMAGE, "free")
        video = await f.post("/api/generate", VIDEO, "free")
        await f.settle()

    assert refused.status_code == 429
    assert "10 images a day" in refused.json()["error"]
    assert refused.headers["ratelimit-policy"] == '"images-day";q=10;w=86400'
    assert refused.headers["ratelimit"] == '"images-day";r=0;t=54000'
    assert refused.headers["retry-after"] == "54000"  # 09:00 to midnight
    assert video.headers["x-ratelimit-limit"] == "2"


async def test_the_daily_limit_is_reset_at_midnight_utc(tmp_path: Path) -> None:
    async with front(tmp_path, plans=_without_burst_limit()) as f:
        assert (await f.post("/api/generate", IMAGE | {"n": 8}, "free")).status_code == 200
        assert (await f.post("/api/generate", IMAGE | {"n": 3}, "free")).status_code == 429
        f.clock.forward(hours=15)
        assert (await f.post("/api/generate", IMAGE | {"n": 3}, "free")).status_code == 200


async def test_an_error_reply_of_a_charged_route_has_rate_limit_headers(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await f.submit("free", n=4)
        reply = await f.post("/api/generate", IMAGE | {"steps": "many"}, "free")

    assert reply.status_code == 400
    assert (reply.headers["x-ratelimit-limit"], reply.headers["x-ratelimit-remaining"]) == ("10", "6")


async def test_requests_with_the_same_idempotency_key_and_body_are_one_job(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        replies = [await f.post("/api/generate", IMAGE, "free", **{"idempotency-key": "k-1"}) for _ in range(3)]
        other_body = await f.post("/api/generate", IMAGE | {"seed": 1}, "free", **{"idempotency-key": "k-1"})
        other_owner = await f.post("/api/generate", IMAGE, "pro", **{"idempotency-key": "k-1"})

        assert await f.used("images") == 1
        assert len(f.engine.jobs) == 2
    assert {reply.json()["jobId"] for reply in replies} == {replies[0].json()["jobId"]}
    assert other_body.status_code == 409
    assert other_owner.json()["jobId"] != replies[0].json()["jobId"]


async def test_a_repeated_request_is_answered_although_its_key_may_start_no_more_jobs(tmp_path: Path) -> None:
    async with front(tmp_path, max_queued_per_key=1) as f:
        first = await f.post("/api/generate", IMAGE, "pro", **{"idempotency-key": "k-1"})
        refused = await f.post("/api/generate", IMAGE, "pro", **{"idempotency-key": "k-2"})
        again = await f.post("/api/generate", IMAGE, "pro", **{"idempotency-key": "k-1"})
        other_body = await f.post("/api/generate", IMAGE | {"seed": 1}, "pro", **{"idempotency-key": "k-1"})

    assert (refused.status_code, other_body.status_code) == (429, 409)
    assert again.json() == first.json()
    assert again.headers["x-ratelimit-remaining"] == first.headers["x-ratelimit-remaining"]


async def test_a_repeated_request_whose_job_was_deleted_is_told_so(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = (await f.post("/api/generate", IMAGE, **{"idempotency-key": "k-1"})).json()["jobId"]
        f.engine.run(first)
        await f.settle()
        await f.delete(f"/api/jobs/{first}")
        again = await f.post("/api/generate", IMAGE, **{"idempotency-key": "k-1"})

    assert (again.status_code, "was deleted" in again.json()["error"]) == (409, True)


@pytest.mark.parametrize("value", ["", "a b", "x" * 256, "café".encode().decode("latin-1")])
async def test_a_malformed_idempotency_key_is_refused(tmp_path: Path, value: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.client.post(
            "/api/generate", json=IMAGE, headers={**f.auth("free"), "idempotency-key": value.encode("latin-1")}
        )

    assert reply.status_code == 400


async def test_the_number_of_unfinished_jobs_per_key_is_limited(tmp_path: Path) -> None:
    async with front(tmp_path, max_queued_per_key=2) as f:
        first, _ = [await f.submit("pro") for _ in range(2)]
        refused = await f.post("/api/generate", IMAGE, "pro")
        f.engine.run(first)
        await f.settle()
        again = await f.post("/api/generate", IMAGE, "pro")

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert again.status_code == 200


async def test_a_full_queue_refuses_a_job_without_a_charge(tmp_path: Path) -> None:
    async with front(tmp_path, queue_size=1) as f:
        await f.submit("pro")
        refused = await f.post("/api/generate", IMAGE, "free")

        assert await f.used("images") == 0
    assert refused.status_code == 429
    assert "queue is full" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) >= 1


async def test_too_many_requests_per_minute_are_refused(tmp_path: Path) -> None:
    async with front(tmp_path, plans=_without_burst_limit(burst_per_minute=2)) as f:
        statuses = [(await f.post("/api/generate", IMAGE, "free")).status_code for _ in range(3)]

    assert statuses == [200, 200, 429]


async def test_a_job_without_a_ready_engine_is_a_502_without_a_charge(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.not_ready_reason = "the engine is starting"
        reply = await f.post("/api/generate", IMAGE, "free")

        assert await f.used("images") == 0
    assert (reply.status_code, reply.headers["retry-after"]) == (502, "5")


async def test_a_job_survives_an_engine_that_fails_right_after_the_job_was_stored(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        f.engine.submit = _raise_unavailable  # type: ignore[method-assign]  # the engine fails
        job_id = await f.submit()
        keys = f.keys
    async with front(tmp_path, keys=keys) as f:
        assert await f.service.recovery.recover() == 1
        assert (await f.status(job_id))["status"] == State.QUEUED
        assert job_id in f.engine.jobs


def _raise_unavailable(*_: object) -> None:
    from server.errors import Unavailable

    raise Unavailable("gone")


def _without_burst_limit(**changes: Any) -> dict[str, Any]:
    from dataclasses import replace

    from server.accounts.quotas import DEFAULT_PLANS

    unlimited = {"burst_per_minute": None, "max_queued": None}
    return {name: replace(plan, **(unlimited | changes)) for name, plan in DEFAULT_PLANS.items()}
