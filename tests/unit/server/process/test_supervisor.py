"""The supervisor, with small child programs in place of the server process.

Each test runs the supervisor in a process of its own, because signals belong to a main thread.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.process.supervisor import HUNG, POISONED, UNUSABLE, Restarts, listen
from tests.support.paths import ROOT

SUPERVISOR = """
import itertools, logging, os, sys
from pathlib import Path
import server.process.supervisor as module
from server.process.supervisor import Restarts, Supervisor, listen

logging.basicConfig(format="%(message)s %(ended)s", level="WARNING")
Restarts.FIRST_S, Restarts.LONGEST_S = 0.01, 0.02
sock = listen("127.0.0.1", 0)
print(sock.getsockname()[1], flush=True)
child, state, timeout_s, grace_s, marks, ooms = sys.argv[1:]
module.oom_kills = itertools.count(0, int(ooms)).__next__
supervisor = Supervisor(
    lambda fd, beat: [sys.executable, "-c", child, str(fd), str(beat), state, str(os.getpid())],
    sock,
    step_timeout_s=float(timeout_s),
    start_timeout_s=30,
    shutdown_grace_s=float(grace_s),
    marks=Path(marks),
)
sys.exit(supervisor.run())
"""

# The beginning of every child: `beat()` sends a heartbeat, `starts` counts starts, `answer()` serves one connection.
CHILD = """
import os, signal, socket, sys, time
fd, beating, state, parent = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sock = socket.socket(fileno=fd)
with open(state, "a+") as file:
    file.write(f"{os.getpid()}\\n")
    file.seek(0)
    starts = len(file.readlines())
def beat():
    os.write(beating, b".")
def answer():
    client, _ = sock.accept()
    client.sendall(b"start %d" % starts)
    client.close()
"""
SERVES = CHILD + "beat()\n"


class Supervised:
    def __init__(self, process: subprocess.Popen[str], state: Path) -> None:
        self.process = process
        self.state = state
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self) -> str:
        with self.connect() as client:
            return client.recv(100).decode()

    def child_pids(self) -> list[int]:
        return [int(line) for line in self.state.read_text().split()]

    def end(self) -> tuple[int, str]:
        """The exit code and what was logged."""
        _, logged = self.process.communicate(timeout=30)
        return self.process.returncode, logged


@contextmanager
def supervised(
    folder: Path, child: str, *, step_timeout_s: float = 30, grace_s: float = 10, serves: bool = True, ooms: int = 0
) -> Iterator[Supervised]:
    """Runs a supervisor of this child program. serves: the child sends a first heartbeat. ooms: processes that the
    kernel ends for want of memory from one look at its counter to the next.
    """
    state = folder / "starts"
    settings = [str(state), str(step_timeout_s), str(grace_s), str(folder / "marks"), str(ooms)]
    command = [sys.executable, "-c", SUPERVISOR, (SERVES if serves else CHILD) + child, *settings]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Supervised(process, state)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("deed", "ooms", "noted"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 0, "somebody killed it"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 0, "SIGSEGV"),
        ("os._exit(7)", 0, "exit code 7"),
        ("time.sleep(60)", 0, "hung, killed"),
    ],
)
def test_the_next_process_can_tell_whether_somebody_killed_the_last_one(
    tmp_path: Path, deed: str, ooms: int, noted: str
) -> None:
    child = f"""
if starts == 1:
    {deed}
try:
    said = open(os.path.join(os.path.dirname(state), "marks", "ended")).read()
except FileNotFoundError:
    said = "somebody killed it"
client, _ = sock.accept()
client.sendall(said.encode())
client.close()
"""
    with supervised(tmp_path, child, step_timeout_s=1 if "sleep" in deed else 30, ooms=ooms) as server:
        assert server.ask() == noted


def test_clients_that_connect_during_a_restart_wait_and_are_served(tmp_path: Path) -> None:
    """The first process answers one client and ends as after a device fault, before it accepts the others."""
    child = f"""
if starts == 1:
    answer()
    os._exit({POISONED})
for _ in range(5):
    answer()
"""
    with supervised(tmp_path, child) as server:
        clients = [server.connect() for _ in range(6)]  # all connected before anything restarts
        answers = [client.recv(100).decode() for client in clients]
        for client in clients:
            client.close()
        code, logged = server.end()

    assert answers == ["start 1", *["start 2"] * 5]
    assert code == 0
    assert f"starting it again exit code {POISONED}" in logged


def test_a_process_that_ends_well_is_not_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "answer()") as server:
        assert server.ask() == "start 1"
        assert server.end() == (0, "")


def test_a_crash_is_followed_by_a_new_start(tmp_path: Path) -> None:
    child = """
if starts == 1:
    os.kill(os.getpid(), signal.SIGSEGV)
answer()
"""
    with supervised(tmp_path, child) as server:
        assert server.ask() == "start 2"
        code, logged = server.end()

    assert code == 0
    assert "SIGSEGV" in logged


def test_a_process_that_cannot_start_ends_the_supervisor_with_its_code(tmp_path: Path) -> None:
    with supervised(tmp_path, "sys.exit(3)", serves=False) as server:
        code, logged = server.end()

    assert code == 3
    assert len(server.child_pids()) == 1 + Restarts.MOST_FAILED_STARTS
    assert logged.splitlines()[-1] == "the server process cannot be kept running, giving up exit code 3"


def test_a_process_that_another_start_would_not_help_is_not_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, f"sys.exit({UNUSABLE})") as server:
        code, _ = server.end()

    assert code == UNUSABLE
    assert len(server.child_pids()) == 1


@pytest.mark.slow
def test_a_process_without_heartbeat_is_killed_and_started_again(tmp_path: Path) -> None:
    child = """
if starts == 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pause()
answer()
"""
    with supervised(tmp_path, child, step_timeout_s=0.5) as server:
        assert server.ask() == "start 2"
        code, logged = server.end()

    assert code == 0
    assert "hung, killed" in logged
    assert_gone(server.child_pids()[0])


@pytest.mark.slow
def test_a_process_with_a_heartbeat_is_left_alone_however_long_its_work_takes(tmp_path: Path) -> None:
    child = """
for _ in range(50):
    time.sleep(0.05)
    beat()
answer()
"""
    with supervised(tmp_path, child, step_timeout_s=2.0) as server:  # 2.5 s of work, a heartbeat every 0.05 s
        assert server.ask() == "start 1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_is_forwarded_and_the_work_is_finished(tmp_path: Path, number: signal.Signals) -> None:
    child = """
import threading
stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())
answer()
while not stopping.wait(0.01): pass
answer()
"""
    with supervised(tmp_path, child) as server:
        server.ask()
        server.process.send_signal(number)
        assert server.ask() == "start 1"
        assert server.end() == (0, "")


def test_a_process_that_the_forwarded_signal_ends_counts_as_stopped(tmp_path: Path) -> None:
    with supervised(tmp_path, "answer(); signal.pause()") as server:
        server.ask()
        server.process.terminate()
        assert server.end() == (0, "")

    assert_gone(server.child_pids()[0])


STUBBORN = """
import threading
def note(*_):
    stops.append(1)
stops = []
signal.signal(signal.SIGTERM, note)
answer()
while not stops: time.sleep(0.01)
answer()
while True: signal.pause()
"""


def test_the_second_request_to_stop_kills(tmp_path: Path) -> None:
    with supervised(tmp_path, STUBBORN) as server:
        server.ask()
        server.process.terminate()
        server.ask()  # the child has received the first request
        server.process.terminate()
        code, _ = server.end()

    assert code == 128 + signal.SIGKILL
    assert_gone(server.child_pids()[0])


def test_a_process_that_does_not_stop_within_its_grace_period_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, STUBBORN, grace_s=-4.9) as server:  # with the supervisor's extra 5 s: 0.1 s
        server.ask()
        server.process.terminate()
        code, _ = server.end()

    assert code == 128 + signal.SIGKILL


def test_the_process_ends_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    child = """
from server.process.supervisor import die_with_parent
die_with_parent(parent)
client, _ = sock.accept()
client.sendall(b"armed")
signal.pause()
"""
    with supervised(tmp_path, child) as server, server.connect() as client:
        assert client.recv(100) == b"armed"
        server.process.kill()
        assert client.recv(100) == b""  # the connection closes with the child


def test_a_process_whose_supervisor_has_already_ended_does_not_start() -> None:
    code = "from server.process.supervisor import die_with_parent; die_with_parent(1 << 30); print('started')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert (ended.returncode, ended.stdout) == (UNUSABLE, "")


def test_an_address_in_use_is_an_error() -> None:
    with listen("127.0.0.1", 0) as sock, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", sock.getsockname()[1])


class TestRestarts:
    """The decision when to start again, without processes."""

    def test_each_crash_waits_twice_as_long_up_to_five_seconds_and_never_gives_up(self) -> None:
        restarts = Restarts()
        waits = [restarts.after(1, hung=False, served=True, ran_s=1) for _ in range(20)]

        assert waits == [0.5, 1, 2, 4, *[5] * 16]

    def test_after_a_long_run_the_waits_begin_anew(self) -> None:
        restarts = Restarts()
        restarts.after(1, hung=False, served=True, ran_s=1)
        restarts.after(1, hung=False, served=True, ran_s=1)

        assert restarts.after(1, hung=False, served=True, ran_s=60) == 0.5

    @pytest.mark.parametrize(("code", "hung"), [(POISONED, False), (HUNG, False), (-9, True)])
    def test_a_device_that_is_poisoned_or_hangs_after_a_long_run_restarts_at_once(self, code: int, hung: bool) -> None:
        restarts = Restarts()
        restarts.after(1, hung=False, served=True, ran_s=1)

        assert restarts.after(code, hung=hung, served=True, ran_s=60) == 0
        assert restarts.after(code, hung=hung, served=True, ran_s=1) == 0.5, "again and again, it waits"

    @pytest.mark.parametrize("code", [1, -11, POISONED])
    def test_after_six_starts_in_a_row_that_did_not_come_to_serve_it_gives_up(self, code: int) -> None:
        restarts = Restarts()
        for _ in range(5):
            assert restarts.after(code, hung=False, served=False, ran_s=20) is not None

        assert restarts.after(code, hung=False, served=False, ran_s=20) is None

    def test_a_start_that_came_to_serve_ends_the_row_of_failed_ones(self) -> None:
        restarts = Restarts()
        for n in range(12):
            assert restarts.after(1, hung=False, served=n % 6 == 5, ran_s=1) is not None
