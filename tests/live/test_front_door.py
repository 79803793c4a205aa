"""What strangers and a stuck log cannot do to a running server: stop it, or stop it from ending."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.http.live_server import START_S, LiveServer

pytestmark = [pytest.mark.live, pytest.mark.slow]

N_DESCRIPTORS = 128


class UnreadServer(LiveServer):
    """Its log is a pipe that nobody reads, and it may open few files."""

    def start(self) -> LiveServer:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        self.pipe, into = os.pipe()
        os.write(into, bytes(fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)))  # there is no room for a single line
        command = ["prlimit", f"--nofile={N_DESCRIPTORS}:{N_DESCRIPTORS}", sys.executable, "-m", "server", "serve"]
        command += ["--data-dir", str(self.data_dir), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=into, stderr=into, env=os.environ | self.env, text=True)
        os.close(into)
        self.log = (self.data_dir.parent / "unused.log").open("w")
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.key = (self.data_dir / "local-key").read_text().strip()
        return self

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz", key=None).status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnreadServer]:
    live = UnreadServer(tmp_path_factory.mktemp("front") / "data", {"AGENTNAME_SHUTDOWN_GRACE_S": "2"})
    live.start()
    yield live
    assert live.process is not None
    live.process.terminate()
    assert live.process.wait(20) == 0, "it ends although nobody reads its log"
    os.close(live.pipe)
    live.log.close()


def test_half_open_connections_beyond_the_descriptors_leave_the_others_served(server: UnreadServer) -> None:
    pid, half_open = server.server_pid(), []
    for n in range(3 * N_DESCRIPTORS):
        sock = socket.create_connection(("127.0.0.1", server.port), 5)
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localh"[: 40 if n % 2 else 0])
        half_open.append(sock)
        if n % 16 == 0:
            assert server.get("/healthz", key=None).status == 200
    assert server.get("/api/jobs").status == 200
    for sock in half_open:
        sock.close()

    assert server.server_pid() == pid


def test_a_log_that_nobody_reads_stops_no_job(server: UnreadServer) -> None:
    """The fixture then sees that the server ends, too."""
    pid = server.server_pid()
    for seed in range(3):
        job_id = server.submit(prompt="a red circle", type="image", steps=1, seed=seed)
        assert server.wait(job_id)["status"] == "completed"

    assert server.server_pid() == pid
