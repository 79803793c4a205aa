"""Who writes a log line never waits for who reads it, and nothing is lost as long as somebody reads."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from server.process.log_relay import Relay
from tests.support.paths import ROOT

LINE = b"x" * 99 + b"\n"


def relayed(room_bytes: int) -> tuple[Relay, int, int]:
    """A relay, the descriptor to write lines to, and the one where they come out."""
    out, into = os.pipe()
    return Relay([into], room_bytes=room_bytes), into, out


def read_to_the_end(descriptor: int) -> bytes:
    whole = b""
    while chunk := os.read(descriptor, 1 << 16):
        whole += chunk
    return whole


def test_everything_that_is_written_is_passed_on_in_order() -> None:
    relay, into, out = relayed(room_bytes=1 << 22)
    reading: list[bytes] = []
    reader = threading.Thread(target=lambda: reading.append(read_to_the_end(out)))
    reader.start()
    lines = [b"line %d\n" % n for n in range(20_000)]
    for line in lines:
        os.write(into, line)
    relay.flush()
    os.close(into)
    reader.join(10)

    assert b"".join(reading) == b"".join(lines)


def test_lines_that_nobody_reads_are_left_out_whole_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    relay, into, out = relayed(room_bytes=1 << 18)
    for _ in range(20_000):  # 2 MB: more than the room, and never blocked
        os.write(into, LINE)
    relay.flush(patience_s=0.05)
    reading: list[bytes] = []
    reader = threading.Thread(target=lambda: reading.append(read_to_the_end(out)))
    reader.start()  # as a terminal that goes on
    relay.flush()
    os.close(into)
    reader.join(10)
    (told,) = caplog.records
    lines = reading[0].split(b"\n")[:-1]

    assert {*lines} == {LINE[:-1]}
    assert told.levelno == logging.WARNING
    assert told.__dict__["lines"] + len(lines) == 20_000


PROGRAM = """
import os, sys
from server.process.log_relay import open_missing_output, relay_output
open_missing_output()
relays = relay_output()
for n in range(int(sys.argv[1])):
    print(f"line {n}", flush=True)
    print(f"error {n}", file=sys.stderr, flush=True)
os.system("echo from a child")
for relay in relays:
    relay.flush(patience_s=0.2)
sys.exit(3)
"""


def program(n_lines: int) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(n_lines)]


def test_a_program_passes_on_its_own_output_and_that_of_its_children_before_it_ends() -> None:
    ended = subprocess.run(program(2000), cwd=ROOT, capture_output=True, timeout=30)

    assert ended.returncode == 3
    assert ended.stdout == b"".join(b"line %d\n" % n for n in range(2000)) + b"from a child\n"
    assert ended.stderr == b"".join(b"error %d\n" % n for n in range(2000))


def test_output_and_errors_that_go_to_one_place_stay_in_order(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(program(50), cwd=ROOT, stdout=log, stderr=log, timeout=30)

    assert (tmp_path / "log").read_bytes() == (
        b"".join(b"line %d\nerror %d\n" % (n, n) for n in range(50)) + b"from a child\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["nobody reads", "the reader has left", "the disk is full", "closed"])
def test_a_program_ends_whatever_becomes_of_its_log(reader: str, tmp_path: Path) -> None:
    out, into = os.pipe()
    if reader == "the reader has left":
        os.close(out)
    with (tmp_path / "log").open("wb") as log:

        def limited() -> None:
            if reader == "the disk is full":  # writing fails after 4 KiB of a file
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            if reader == "closed":
                os.close(1)
                os.close(2)

        target = log.fileno() if reader == "the disk is full" else into
        process = subprocess.Popen(
            program(20_000),
            cwd=ROOT,
            stdout=target,
            stderr=target,
            preexec_fn=limited,  # no other thread runs here
        )
        assert process.wait(30) == 3
    os.close(into)
