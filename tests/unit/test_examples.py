"""Runs each program of examples/ as its own process, against the HTTP server with a fake engine on a real socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.job import Job
from tests.fakes import FakeEngine
from tests.support.http.served import Served, served
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # each starts a process
EXAMPLES = ROOT / "examples"
PNG, MP4 = b"\x89PNG\r\n\x1a\n", b"ftyp"
MAX_LINES = 40
TIMEOUT_S = 60.0


def environment(server: Served) -> dict[str, str]:
    addressed = {"AGENTNAME_URL": server.url, "AGENTNAME_API_KEY": server.f.keys["pro"]}
    return os.environ | addressed | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}


def run(server: Served, folder: Path, *command: str, **env: str) -> str:
    """What the program prints. A failure shows what it wrote to standard error."""
    env = environment(server) | env
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def started(server: Served, folder: Path, *command: str, **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """The program while it runs. It is killed at the end."""
    process = subprocess.Popen(command, cwd=folder, env=environment(server), stdout=subprocess.PIPE, text=True, **pipes)
    too_long = threading.Timer(TIMEOUT_S, process.kill)  # then a test that reads on meets the end of the output
    too_long.start()
    try:
        yield process
    finally:
        too_long.cancel()
        process.kill()
        process.communicate()


def python(name: str) -> tuple[str, str]:
    return sys.executable, str(EXAMPLES / name)


def after_each_submit(server: Served, react: Callable[[FakeEngine, str], None]) -> None:
    """From now on `react` is called with the engine and the job's id, on the event loop, when a job was submitted."""
    engine = server.f.engine
    submit = engine.submit

    def submit_and_react(job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        submit(job, need_bytes, at)
        server.soon(react, engine, job.id)

    engine.submit = submit_and_react  # type: ignore[method-assign]


def run_half(engine: FakeEngine, job_id: str) -> None:
    engine.start_job(job_id)
    engine.progress(job_id, "denoising", 2, 4)


def test_each_example_is_short_and_named_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text()
    for path in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.sh")):
        assert len(path.read_text().splitlines()) <= MAX_LINES, path.name
        assert f"({path.name})" in index


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_picture_sh_writes_a_png(tmp_path: Path) -> None:
    with served(tmp_path / "server") as server:
        server.run_every_job()
        printed = run(server, tmp_path, str(EXAMPLES / "picture.sh"))

    assert "accepted as job_" in printed
    assert (tmp_path / "city.png").read_bytes().startswith(PNG)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_picture_sh_fails_with_the_jobs_status_when_the_job_fails(tmp_path: Path) -> None:
    with served(tmp_path / "server") as server:
        after_each_submit(server, lambda engine, job_id: engine.fail(job_id))
        ended = subprocess.run(
            [EXAMPLES / "picture.sh"], cwd=tmp_path, env=environment(server), capture_output=True, timeout=TIMEOUT_S
        )

    assert ended.returncode == 1
    assert b"The model failed." in ended.stderr
    assert not (tmp_path / "city.png").exists()


def test_chat_stream_prints_the_reply(tmp_path: Path) -> None:
    with served(tmp_path / "server") as server:
        printed = run(server, tmp_path, *python("chat_stream.py"), "Hello", "there", MODEL="talker")

    assert printed == "You said: Hello there\n"


def test_picture_and_clip_writes_both_files(tmp_path: Path) -> None:
    with served(tmp_path / "server") as server:
        server.run_every_job()
        printed = run(server, tmp_path, *python("picture_and_clip.py"))

    assert (tmp_path / "city.png").read_bytes().startswith(PNG)
    assert MP4 in (tmp_path / "waves.mp4").read_bytes()[:12]
    assert "wrote city.png: " in printed
    assert "seed 6, by painter" in printed
    assert "by filmer" in printed


def test_webhook_receiver_prints_signed_calls_and_refuses_forged_ones(tmp_path: Path) -> None:
    with (
        served(tmp_path / "server", webhooks={"allowed_networks": ["127.0.0.0/8"]}) as server,
        started(server, tmp_path, *python("webhook_receiver.py"), "0", stderr=subprocess.DEVNULL) as receiver,
    ):
        assert receiver.stdout is not None
        url = receiver.stdout.readline().strip()
        server.f.clock.now = datetime.now(UTC)  # the receiver refuses old timestamps
        server.run_every_job()
        signed = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
        forged = httpx.post(url, json={"type": "job.completed"}, headers=signed, trust_env=False)
        auth = {"authorization": f"Bearer {server.f.keys['pro']}"}
        body = {"prompt": "A city", "type": "image", "webhook_url": url}
        accepted = httpx.post(f"{server.url}/api/generate", json=body, headers=auth, trust_env=False).json()
        printed = receiver.stdout.readline()

    assert forged.status_code == 401
    assert printed.startswith(f"job.completed {accepted['jobId']} /")


def test_batch_shows_progress_and_writes_a_picture_per_prompt(tmp_path: Path) -> None:
    with (
        served(tmp_path / "server") as server,
        started(server, tmp_path, *python("batch.py"), "out", stdin=subprocess.PIPE) as batch,
    ):
        assert batch.stdin is not None
        assert batch.stdout is not None
        after_each_submit(server, run_half)
        batch.stdin.write("A red circle\n\nA blue square\n")
        batch.stdin.close()
        batch.stdin = None
        seen: set[str] = set()
        while not {"1 denoising 48%", "2 denoising 48%"} <= seen:  # half of 5 to 92 %, the share of denoising
            line = batch.stdout.readline()
            assert line, seen
            seen.add(line.strip())
        for job_id in list(server.f.engine.jobs):
            server.soon(server.f.engine.render, job_id)
        printed = batch.stdout.read()
        assert batch.wait(TIMEOUT_S) == 0

    assert {"1 wrote out/1.png", "2 wrote out/2.png"} <= set(printed.splitlines())
    for name in ("1.png", "2.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(PNG)
