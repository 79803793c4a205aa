"""Programs that this one starts: gone with it, waited for, and without its secrets."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import pytest

from pipelines import child_process
from pipelines.child_process import COMPILER, PIP, PULL, READER, TooMuchOutput, end_all, environment, run, start
from tests.support.paths import ROOT

SECRETS = {
    "AGENTNAME_DATABASE_URL": "postgresql://me:hunter2@db",
    "AGENTNAME_KEY": "an_1_2",
    "HF_TOKEN": "hf_1",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "https_proxy": "http://me:hunter2@proxy",
    "CUDA_VISIBLE_DEVICES": "1",
}

# Starts a program on a thread that ends at once, and then waits until it is killed.
PARENT = """
import sys, threading, time
from pipelines.child_process import start
begin = lambda: start([{program}], stdout=sys.stdout.fileno(), stdin=None)
thread = threading.Thread(target=begin)
thread.start(); thread.join()
time.sleep(600)
"""
HOLDS_THE_INTERPRETER = "import ctypes; print('begun', flush=True); ctypes.PyDLL(None).sleep(600)"
WITH_A_CHILD_OF_ITS_OWN = """
import sys
from pipelines.child_process import start
start(["sh", "-c", "echo begun; exec sleep 600"], stdout=sys.stdout.fileno()).wait()
"""
PROGRAMS = {
    "a program of others": '"sh", "-c", "echo begun; exec sleep 600"',
    "Python that cannot run a thread": f'sys.executable, "-c", {HOLDS_THE_INTERPRETER!r}',
    "a child of a child": f'sys.executable, "-c", {WITH_A_CHILD_OF_ITS_OWN!r}',
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in SECRETS.items():
        monkeypatch.setenv(name, text)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the end of a parent is Linux's")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_kill_of_the_parent_ends_its_children_but_the_end_of_a_thread_does_not(program: str) -> None:
    script = PARENT.format(program=PROGRAMS[program])
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"begun\n"
    os.set_blocking(parent.stdout.fileno(), False)
    assert parent.stdout.read() is None  # the pipe is open: the program runs on after its thread's end
    os.set_blocking(parent.stdout.fileno(), True)

    parent.send_signal(signal.SIGKILL)
    assert select.select([parent.stdout], [], [], 2.0)[0]
    assert parent.stdout.read() == b""  # whoever held the pipe has ended
    parent.wait()
    parent.stdout.close()


def test_a_program_gets_what_is_listed_and_no_secret(secrets: None) -> None:
    told = run(["env"], timeout_s=10).stdout.decode()

    assert "PATH=" in told
    assert not {name for name in SECRETS if f"{name}=" in told}
    assert {*environment(PIP)} & {*SECRETS} == {"https_proxy"}
    assert {*environment(PULL)} & {*SECRETS} == {"https_proxy", "HF_TOKEN"}
    assert not {*environment(READER)} & {*SECRETS}
    assert {*environment(COMPILER)} & {*SECRETS} == {"CUDA_VISIBLE_DEVICES"}


def test_a_program_inherits_no_descriptor_and_no_ignored_signal(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        listed = run(["sh", "-c", "ls /proc/$$/fd; grep SigIgn /proc/$$/status"], timeout_s=10).stdout.split()

        number = b"%d" % file.fileno()

    assert number not in listed
    assert int(listed[-1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_limits_and_niceness_are_the_programs_own() -> None:
    limits = {resource.RLIMIT_CPU: 7, resource.RLIMIT_CORE: 0}
    told = run(["sh", "-c", "ulimit -t; ulimit -c; nice"], timeout_s=10, niceness=3, limits=limits).stdout.split()

    assert told == [b"7", b"0", b"%d" % (os.nice(0) + 3)]


def test_a_program_that_is_missing_is_an_error_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        start(["/does/not/exist"])


def test_a_program_that_takes_too_long_is_ended_with_its_group_and_leaves_no_zombie() -> None:
    before = zombies()
    with pytest.raises(subprocess.TimeoutExpired):
        run(["sh", "-c", "sleep 600 & sleep 600"], timeout_s=0.1)  # both hold the pipe that `run` reads to its end

    assert not zombies() - before


def test_all_programs_can_be_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_running", weakref.WeakSet())  # without what other tests still use
    before = zombies()
    begun = [start(["sleep", "600"]) for _ in range(3)]
    end_all()

    assert {process.wait() for process in begun} == {-signal.SIGKILL}
    assert not zombies() - before


def zombies() -> set[str]:
    """Children of this process that have ended and that nobody has waited for; other tests may have left some."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {pid for pid in children if "Z (zombie)" in Path(f"/proc/{pid}/status").read_text()}


PRINTS = {
    "nothing, and reads nothing": ("pass", b"", True),
    "little on both streams": ("import sys; print('a'); print('b', file=sys.stderr)", b"a\n", True),
    "a gigabyte": ("import os; [os.write(1, b'x' * 2**20) for _ in range(1024)]", b"", False),
    "a gigabyte of errors": ("import os; [os.write(2, b'x' * 2**20) for _ in range(1024)]", b"", False),
    "both in turn": ("import os; [os.write(n % 2 + 1, b'x' * 2**12) for n in range(2**20)]", b"", False),
}


@pytest.mark.parametrize("prints", PRINTS)
def test_what_a_program_prints_is_bounded(prints: str) -> None:
    script, out, ends_well = PRINTS[prints]
    text = b"x" * (1 << 20)  # more than a pipe holds
    tracemalloc.start()
    try:
        if ends_well:
            done = run([sys.executable, "-c", script], timeout_s=30, text=text)
            assert (done.returncode, done.stdout) == (0, out)
        else:
            with pytest.raises(TooMuchOutput):
                run([sys.executable, "-c", script], timeout_s=30, text=text)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_program_that_closes_its_output_and_stays_is_ended_in_time() -> None:
    script = "import os, time; os.close(1); os.close(2); time.sleep(600)"
    with pytest.raises(subprocess.TimeoutExpired):
        run([sys.executable, "-c", script], timeout_s=0.5)


def test_a_program_gets_all_of_its_input() -> None:
    text = bytes(range(256)) * 5000
    done = run(
        [sys.executable, "-c", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"], timeout_s=30, text=text
    )
    assert done.stdout == text
