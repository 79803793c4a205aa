"""No child outlives the server or keeps it from ending, whatever it is doing. The server is real, ffmpeg hangs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.slow]

GRACE_S = 3
GONE_S = 2.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    hanging = tmp_path / "ffmpeg"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o700)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a hub that never answers
        env = {
            "IMAGEIO_FFMPEG_EXE": str(hanging),
            "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "HF_HUB_OFFLINE": "",
            "AGENTNAME_SHUTDOWN_GRACE_S": str(GRACE_S),
        }
        live = LiveServer(tmp_path / "data", env).start()
        yield live
        if live.process is not None and live.process.poll() is None:
            live.kill(everything=True)


def under(pid: int) -> dict[int, str]:
    """Every process below this one, with its command."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found: dict[int, str] = {}
    for child in {int(each) for file in children for each in file.read_text().split()}:
        found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        found |= under(child)
    return found


def keep_busy(server: LiveServer) -> dict[int, str]:
    """Has a clip encoded and a model pulled, neither of which ends; returns the server's children."""
    server.submit(prompt="a boat", type="video", steps=1)
    server.post("/api/models/pull", {"source": "owner/name"})
    deadline = time.monotonic() + 60
    while True:
        found = under(server.server_pid())
        if all(any(doing in command for command in found.values()) for doing in ("sleep 600", "models.sources.pull")):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def assert_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + GONE_S
    while left := {pid for pid in pids if Path(f"/proc/{pid}").exists() and not is_zombie(pid)}:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def is_zombie(pid: int) -> bool:  # of whoever inherits orphans
    try:
        return "Z (zombie)" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_children_end_with_a_server_that_is_killed_and_do_not_hold_up_one_that_is_stopped(server: LiveServer) -> None:
    first = keep_busy(server)
    os.kill(server.server_pid(), signal.SIGKILL)
    assert_gone(set(first))

    server.wait_ready()  # the supervisor started another one
    second = keep_busy(server)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < GRACE_S + 5
    assert_gone(set(second))
