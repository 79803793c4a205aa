"""Memory, disk and device fail under the real server, lanes hang, jobs are canceled at any step: all others go on.

Faults are put in by `pipelines.fault_points`; numbers such as F9 are those of the reliability plan.
"""

from __future__ import annotations

import base64
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.http.faulty_server import LOST, OFTEN, Faulty
from tests.support.http.input_files import PNG
from tests.support.lanes.tiny_encoders import save_sentence_model
from tests.support.tiny_upscaler import save_upscaler

pytestmark = [pytest.mark.live, pytest.mark.slow]

CLIP = {"type": "video", "prompt": "a boat", "steps": 2, "num_frames": 8, "width": 64, "height": 32}
IMAGE = {"type": "image", "prompt": "a red house"}
PICTURE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
LARGER = {"type": "image", "prompt": "larger", "model": "larger", "image": PICTURE}
ENDS = ("completed", "failed", "canceled")
CHAT = ("/api/chat", {"message": "Tell me a story", "max_tokens": 12})
TEXTS = ("/v1/embeddings", {"model": "sentences", "input": ["a b c"]})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    folder = tmp_path_factory.mktemp("faults")
    save_sentence_model(folder / "data/models/sentences", "bert")
    save_upscaler(folder / "data/models/larger.safetensors", scale=2)
    faulty = Faulty(folder)
    yield faulty
    assert faulty.live.stop() == 0


@pytest.mark.parametrize(("body", "model"), [(CLIP, "tiny-motion"), (LARGER, "larger")])
def test_a_lane_that_hangs_ends_the_process_and_its_job_is_done_by_the_next_one(
    server: Faulty, body: dict[str, Any], model: str
) -> None:
    """F8 for the kinds of lane that `test_crashes` does not let hang."""
    before = len(server.ends())
    server.arm({"at": "step", "do": "hang", "about": model})
    job = server.submit(body)

    status = server.outlive(job)

    assert (status["status"], status["attempt"]) == ("completed", 2)
    (end,) = server.ends()[before:]
    assert end.startswith("hung")
    assert f"step of {model} for {job}" in end


@pytest.mark.parametrize(("request_", "model"), [(CHAT, "smollm2-135m"), (TEXTS, "sentences")])
def test_a_lane_without_stored_jobs_that_hangs_ends_the_process_and_its_request_is_not_charged(
    server: Faulty, request_: tuple[str, Any], model: str
) -> None:
    assert server.live.post(*request_).status == 200
    before, used = len(server.ends()), server.usage()
    server.arm({"at": "forward", "do": "hang", "about": "texts" if model == "sentences" else "chat"})
    with contextlib.suppress(*LOST):
        assert server.live.post(*request_).status >= 500
    server.ready()

    (end,) = server.ends()[before:]
    assert end.startswith("hung")
    assert f"step of {model}" in end
    assert server.usage() == used
    assert server.live.post(*request_).status == 200


@pytest.mark.parametrize("at", ["forward", "load"])
def test_memory_that_runs_out_once_costs_a_job_nothing(server: Faulty, at: str) -> None:
    """F9. A load is tried again where another model can leave."""
    assert server.live.post(*TEXTS).status == 200
    server.live.post("/api/models/tiny-scenes/unload", {})
    server.arm({"at": at, "do": "oom", "about": "" if at == "forward" else "tiny-scenes"})

    status = server.live.wait(server.image("a red house"))

    assert (status["status"], status["attempt"]) == ("completed", 1)
    assert server.fired() == 1


def test_jobs_that_run_out_of_memory_together_are_done_in_smaller_batches(server: Faulty) -> None:
    server.arm({"at": "merged forward", "do": "oom", "times": 2})

    jobs = [server.image(f"house {i}", steps=12) for i in range(4)]

    assert [server.live.wait(job)["status"] for job in jobs] == ["completed"] * 4
    assert server.fired() == 2


def test_a_job_that_always_runs_out_of_memory_fails_with_a_refund_and_the_next_one_runs(server: Faulty) -> None:
    used = server.usage()
    server.arm({"at": "forward", "do": "oom", "times": OFTEN})
    status = server.live.wait(server.image("too much"))

    assert (status["status"], status["error"]["code"]) == ("failed", "out_of_memory")
    assert server.usage() == used
    assert server.fired() <= 6, "no storm of retries"
    server.arm()
    assert server.live.wait(server.image("a house"))["status"] == "completed"
    for request in (CHAT, TEXTS):
        assert server.live.post(*request).status == 200


def test_a_model_that_never_fits_fails_its_job_with_a_refund_and_the_others_are_served(server: Faulty) -> None:
    server.live.post("/api/models/tiny-motion/unload", {})
    used = server.usage()
    server.arm({"at": "load", "do": "oom", "about": "tiny-motion", "times": OFTEN})
    status = server.live.wait(server.submit(CLIP))

    assert (status["status"], status["error"]["code"]) == ("failed", "model_load_failed")
    assert server.usage() == used
    assert server.fired() <= 3
    assert server.live.wait(server.image("a house"))["status"] == "completed"
    server.arm()
    assert server.live.post("/api/models/tiny-motion/unload", {}).status == 200
    server.live.wait_until("/api/models/tiny-motion", lambda model: model["state"] == "available")
    assert server.live.wait(server.submit(CLIP))["status"] == "completed"


def test_a_device_that_is_lost_ends_the_process_and_the_job_is_done_by_the_next_one(server: Faulty) -> None:
    """F22."""
    before = len(server.ends())
    server.arm({"at": "forward", "do": "lost"})

    status = server.outlive(server.image("a red house"))

    assert (status["status"], status["attempt"]) == ("completed", 2)
    assert len(server.ends()) == before + 1


def test_a_disk_that_is_full_refuses_new_jobs_until_there_is_room(server: Faulty) -> None:
    """F13: a request whose row cannot be stored, and an output that cannot be written."""
    used = server.usage()
    server.arm({"at": "commit", "do": "enospc"})
    refused = server.live.post("/api/generate", {"type": "image", "prompt": "no room"})
    assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (502, True)
    server.arm({"at": "encode", "do": "enospc", "times": OFTEN})
    status = server.live.wait(server.image("no room for this"))
    assert (status["status"], status["error"]["code"]) == ("failed", "output_not_saved")
    assert server.usage() == used

    server.arm()
    assert server.live.wait(server.image("a house"))["status"] == "completed"


def test_jobs_and_chats_canceled_at_any_step_end_once_and_give_back_what_they_held(server: Faulty) -> None:
    """F25, on the device of the tests."""
    server.arm()
    rng, ends = random.Random(5), set()
    for turn in range(24):
        job = server.submit(rng.choice([CLIP | {"steps": 12}, LARGER, IMAGE | {"steps": 24}]))
        at = rng.randrange(4)
        while _step(server, job) < at:
            continue
        for _ in range(1 + turn % 2):
            server.live.post(f"/api/jobs/{job}/cancel", {})
        gone = server.live.wait_until(
            f"/api/status/{job}", lambda status: status.get("code") == 404 or status["status"] in ENDS
        )
        ends.add(gone.get("status", "deleted"))  # it had ended before: canceling it has deleted it
    assert "canceled" in ends
    assert ends <= {"canceled", "completed", "deleted"}
    server.live.wait_until("/api/queue", lambda queue: not queue["running"] and not queue["waiting"])
    assert server.live.post(*CHAT).status == 200


def _step(server: Faulty, job: str) -> float:
    status = server.live.get(f"/api/status/{job}").json
    return float("inf") if status["status"] in ENDS else float(status["step"])
