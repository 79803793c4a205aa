"""The real server with real models over HTTP: the three requests of the API document, and the guarantees about jobs."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from tests.support.http.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("live") / "data").start()
    yield live
    assert live.stop() == 0


def image_of(server: LiveServer, status: dict) -> Image.Image:
    return Image.open(io.BytesIO(server.fetch(status["outputs"][0]["url"]).body))


def test_the_documents_image_request_gives_a_png_with_its_parameters_as_metadata(server: LiveServer) -> None:
    reply = server.post(
        "/api/generate", {"prompt": "A futuristic city at night", "type": "image", "aspect_ratio": "16:9"}
    )
    assert reply.status == 200
    assert reply.json["status"] == "queued"
    assert re.fullmatch(r"job_\d{10}_[0-9A-Za-z]{22}", reply.json["jobId"])

    status = server.wait(reply.json["jobId"])

    assert status["status"] == "completed", status
    assert status["progress"] == 1
    assert status["stage"] == "done"
    assert status["step"] == status["totalSteps"] == status["params"]["steps"]
    image = image_of(server, status)
    assert image.format == "PNG"
    assert image.size == (status["params"]["width"], status["params"]["height"])
    assert abs(image.width / image.height - 16 / 9) < 0.1
    assert "Steps: " in image.text["parameters"]
    assert json.loads(image.text["agentname"])["seed"] == status["outputs"][0]["seed"]
    assert np.asarray(image).std() > 10  # not a flat field


def test_the_documents_video_request_gives_an_mp4_of_ten_seconds_that_moves(server: LiveServer) -> None:
    body = {"prompt": "Ocean waves at sunset", "type": "video", "duration": 10, "aspect_ratio": "16:9", "steps": 6}
    status = server.wait(server.submit(**body))
    assert status["status"] == "completed", status

    reply = server.fetch(status["outputs"][0]["url"])
    frames, seconds = decoded(reply.body)

    assert reply.headers["content-type"] == "video/mp4"
    assert abs(seconds - 10) < 0.3
    assert len(frames) == status["params"]["numFrames"]
    assert np.abs(frames[0].astype(int) - frames[len(frames) // 2].astype(int)).mean() > 1


def decoded(mp4: bytes) -> tuple[list[np.ndarray], float]:
    """Decodes a clip with ffmpeg: its frames, and its length in seconds."""
    probe = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", "-", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    ended = subprocess.run(probe, input=mp4, capture_output=True, check=True)
    [(width, height)] = re.findall(rb", (\d+)x(\d+)", ended.stderr)[:1]
    fps = float(re.findall(rb"([\d.]+) fps", ended.stderr)[0])
    frames = np.frombuffer(ended.stdout, np.uint8).reshape(-1, int(height), int(width), 3)
    return list(frames), len(frames) / fps


def test_the_documents_chat_request_gets_a_reply_and_a_timestamp(server: LiveServer) -> None:
    reply = server.post("/api/chat", {"message": "What can you help me with?"})

    assert reply.status == 200
    assert len(reply.json["reply"].split()) > 5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", reply.json["timestamp"])


def test_the_same_seed_gives_the_same_image_alone_and_in_a_batch(server: LiveServer) -> None:
    body = {"prompt": "a red circle at the left on a blue background", "type": "image", "seed": 7}
    alone = np.asarray(image_of(server, server.wait(server.submit(**body)))).astype(int)
    others = [server.submit(prompt="a forest at noon", type="image", seed=i) for i in range(3)]
    with_others = server.wait(server.submit(**body))

    difference = np.abs(np.asarray(image_of(server, with_others)).astype(int) - alone)
    assert difference.max() <= 1  # one step of 8-bit rounding
    assert all(server.wait(job)["status"] == "completed" for job in others)


def test_a_deterministic_image_has_the_same_pixels_alone_and_in_a_batch(server: LiveServer) -> None:
    body = {"prompt": "a desert at sunrise", "type": "image", "seed": 3, "deterministic": True, "output_format": "png"}
    first = server.wait(server.submit(**body))
    other = server.submit(prompt="mountains", type="image")
    second = server.wait(server.submit(**body))
    server.wait(other)

    assert np.array_equal(np.asarray(image_of(server, first)), np.asarray(image_of(server, second)))


def test_a_canceled_video_ends_and_the_next_job_runs(server: LiveServer) -> None:
    job = server.submit(prompt="Ocean waves at sunset", type="video", duration=10, steps=100)

    assert server.post(f"/api/jobs/{job}/cancel", {}).status == 200
    assert server.wait(job)["status"] == "canceled"
    assert server.wait(server.submit(prompt="a forest", type="image"))["status"] == "completed"


def test_every_noise_scheduler_that_is_offered_makes_an_image(server: LiveServer) -> None:
    models = {model["name"]: model for model in server.get("/api/models").json["models"]}
    offered = models["tiny-scenes"]["schedulers"]
    jobs = {name: server.submit(prompt="A forest", type="image", scheduler=name, steps=8, seed=6) for name in offered}
    ended = {name: server.wait(job) for name, job in jobs.items()}

    assert len(offered) > 1
    assert {name: (end["status"], end["params"]["scheduler"]) for name, end in ended.items()} == {
        name: ("completed", name) for name in offered
    }
    assert len({end["outputs"][0]["sha256"] for end in ended.values()}) == len(offered)
    assert all(np.asarray(image_of(server, end)).std() > 10 for end in ended.values())  # not a flat field


def test_outputs_of_one_job_have_consecutive_seeds(server: LiveServer) -> None:
    status = server.wait(server.submit(prompt="a green star", type="image", n=3, seed=40))

    assert [output["seed"] for output in status["outputs"]] == [40, 41, 42]
    assert len({output["sha256"] for output in status["outputs"]}) == 3


def test_a_file_is_served_in_ranges_and_only_with_its_signed_link_or_a_key(server: LiveServer) -> None:
    status = server.wait(server.submit(prompt="a city", type="image"))
    url = status["outputs"][0]["url"]

    part = server.fetch(url, Range="bytes=0-7")

    assert (part.status, part.body) == (206, b"\x89PNG\r\n\x1a\n")
    assert server.fetch(url.split("?")[0]).status == 401


def test_models_and_device_show_what_is_resident_and_the_bytes_add_up(server: LiveServer) -> None:
    server.wait(server.submit(prompt="a city", type="image"))
    models = {model["name"]: model for model in server.get("/api/models").json["models"]}
    device = server.get("/api/gpu").json["devices"][0]

    assert models["tiny-scenes"]["state"] == "resident"
    assert sum(holder["bytes"] for holder in device["holders"]) == device["used"]


def test_a_killed_server_finishes_every_accepted_job_after_its_restart(tmp_path: Path) -> None:
    live = LiveServer(tmp_path / "data").start()
    jobs = [live.submit(prompt="a forest at night", type="image", seed=i) for i in range(6)]
    os.kill(live.server_pid(), signal.SIGKILL)  # the supervisor starts it again on the same socket

    ends = [live.wait(job) for job in jobs]

    assert [end["status"] for end in ends] == ["completed"] * 6
    assert live.stop() == 0


def test_a_second_server_on_the_same_data_exits_at_once_and_the_first_goes_on(server: LiveServer) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--data-dir", str(server.data_dir), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert second.returncode != 0
    assert "Another server uses" in second.stderr
    assert server.get("/readyz", key=None).status == 200
