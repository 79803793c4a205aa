"""The real server whose process ends or hangs at work: the right jobs pay for it, and all others go on.

Faults are put in by `pipelines.fault_points`; numbers such as F6 are those of the reliability plan.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.support.http.faulty_server import LOST, OFTEN, Faulty

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    faulty = Faulty(tmp_path_factory.mktemp("faulty"))
    yield faulty
    assert faulty.live.stop() == 0


@pytest.mark.parametrize(
    ("point", "deed", "attempt"),
    [("load", "kill", 1), ("step", "segv", 2), ("encode", "exit", 2)],
)
def test_a_job_under_way_when_the_process_ends_is_done_by_the_next_one(
    server: Faulty, point: str, deed: str, attempt: int
) -> None:
    """F5. A load counts against its model and costs the job no attempt."""
    before, used = len(server.ends()), server.usage()["images"]
    server.live.post("/api/models/tiny-scenes/unload", {})
    server.arm({"at": point, "do": deed})
    job = server.image("a red house")

    status = server.outlive(job)

    assert (status["status"], status["attempt"]) == ("completed", attempt)
    assert len(server.ends()) == before + 1
    assert server.usage()["images"] == used + 1


def test_one_poisonous_job_among_four_fails_with_a_refund_and_the_others_are_done(server: Faulty) -> None:
    """F6: three ends of the process, no more."""
    before, used = len(server.ends()), server.usage()["images"]
    server.arm({"at": "step", "do": "exit", "about": "poison", "nth": 3, "times": OFTEN})
    good = [server.image(f"house {i}", steps=40) for i in range(3)]
    bad = server.image("poison", steps=40)

    failed, done = server.outlive(bad), [server.outlive(job) for job in good]

    assert [status["status"] for status in done] == ["completed"] * 3
    assert max(status["attempt"] for status in done) <= 2, "they ran alone after that"
    assert (failed["status"], failed["error"]["code"], failed["attempt"]) == ("failed", "engine_stopped", 3)
    assert failed["error"]["message"].startswith("The server process ended 3 times at work on this job")
    assert [end.split(", in ")[1][:18] for end in server.ends()[before:]] == ["step of tiny-scene"] * 3
    assert server.usage()["images"] == used + 3


def test_a_model_whose_load_ends_the_process_is_set_aside_and_the_others_are_served(server: Faulty) -> None:
    """F7. An admin who unloads it lets it be tried again."""
    before, used = len(server.ends()), server.usage()["videos"]
    server.arm({"at": "load", "do": "segv", "about": "tiny-motion", "times": OFTEN})
    video = {"type": "video", "prompt": "a boat", "steps": 1, "num_frames": 8, "width": 64, "height": 32}
    job = server.live.submit(**video)

    failed = server.outlive(job)

    assert (failed["status"], failed["error"]["code"]) == ("failed", "model_load_failed")
    assert "is set aside: the server process ended 3 times while it loaded it" in failed["error"]["message"]
    assert len(server.ends()) == before + 3
    assert server.usage()["videos"] == used
    listed = {model["name"]: model for model in server.live.get("/api/models").json["models"]}["tiny-motion"]
    assert (listed["state"], listed["retryInSeconds"] > 500) == ("failed", True)
    assert "is set aside" in listed["failure"]["message"]
    assert server.live.post("/api/generate", video).status == 502
    assert server.live.wait(server.image("a house"))["status"] == "completed"

    server.arm()
    assert server.live.post("/api/models/tiny-motion/unload", {}).status == 200
    server.live.wait_until(
        "/api/models", lambda all: {m["name"]: m for m in all["models"]}["tiny-motion"]["state"] == "available"
    )
    assert server.live.wait(server.live.submit(**video))["status"] == "completed"
    assert len(server.ends()) == before + 3


@pytest.mark.parametrize("deed", ["hang", "hang-gil"])
def test_a_step_that_hangs_ends_the_process_and_the_job_is_done_by_the_next_one(server: Faulty, deed: str) -> None:
    """F8: also in native code that holds the interpreter's lock."""
    before = len(server.ends())
    server.arm({"at": "step", "do": deed, "about": deed})
    job = server.image(deed)

    status = server.outlive(job)

    assert (status["status"], status["attempt"]) == ("completed", 2)
    (end,) = server.ends()[before:]
    assert end.startswith("hung" if deed == "hang" else "hung, killed")
    assert f"step of tiny-scenes for {job}" in end


def test_an_event_loop_that_hangs_ends_the_process_and_no_job_is_to_blame(server: Faulty) -> None:
    before = len(server.ends())
    job = server.image("a long work", steps=60, n=2, width=128, height=128)
    server.live.wait_until(f"/api/status/{job}", lambda status: status["step"] > 0)
    server.arm({"at": "heartbeat", "do": "hang"})

    status = server.outlive(job)

    assert (status["status"], status["attempt"]) == ("completed", 1)
    assert len(server.ends()) == before + 1


def test_a_process_that_somebody_stops_is_replaced_and_no_job_is_to_blame(server: Faulty) -> None:
    server.arm()
    job = server.image("a long work", steps=60, n=2, width=128, height=128)
    server.live.wait_until(f"/api/status/{job}", lambda status: status["step"] > 0)
    os.kill(server.live.server_pid(), signal.SIGSTOP)

    status = server.outlive(job)

    assert (status["status"], status["attempt"]) == ("completed", 1)


@pytest.mark.parametrize("point", ["admit", "step"])
def test_a_panic_of_native_code_ends_its_job_and_not_the_process(server: Faulty, point: str) -> None:
    before = len(server.ends())
    server.arm({"at": point, "do": "panic", "about": "panic"})
    job = server.image("panic")

    status = server.live.wait(job)

    assert (status["status"], status["error"]["code"]) == ("failed", "model_error")
    assert server.live.wait(server.image("a house"))["status"] == "completed"
    assert len(server.ends()) == before


def test_chats_under_way_are_refunded_when_the_process_is_killed(server: Faulty) -> None:
    server.arm()
    server.live.chat("hi", max_tokens=1)
    used = server.usage()["chats"]
    server.arm({"at": "step", "do": "kill", "about": "smollm", "nth": 3})
    threads = [threading.Thread(target=_try_chat, args=(server,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.ready()

    assert server.usage()["chats"] == used
    server.arm()
    server.live.chat("hi", max_tokens=1)
    assert server.usage()["chats"] == used + 1


def test_a_planned_stop_costs_no_attempt(server: Faulty) -> None:
    server.arm()
    job = server.image("a long work", steps=60, n=2, width=128, height=128)
    server.live.wait_until(f"/api/status/{job}", lambda status: status["step"] > 0)
    assert server.live.process is not None
    server.live.process.send_signal(signal.SIGTERM)
    server.live.stop()  # a second signal, which kills
    server.live.start()
    assert server.live.get(f"/api/status/{job}").json["attempt"] == 1
    server.live.post(f"/api/jobs/{job}/cancel", {})


def _try_chat(server: Faulty) -> None:
    with contextlib.suppress(*LOST):
        server.live.post("/api/chat", {"message": "Tell me a story", "max_tokens": 40})
