"""Marks tell another process what this one was doing, however it ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from server.marks import Marks, is_stopping, note_stop, read_marks, remove_marks
from tests.support.paths import ROOT

KILLED = """
import os, signal, sys
from pathlib import Path
from server.marks import Marks
mark = Marks(Path(sys.argv[1])).device(0)
mark.begin("load", "tiny")
mark.end()
mark.begin("step", "tiny", ["job_1", "job_2"])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_mark_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "marks")], cwd=ROOT)

    assert ended.returncode == -signal.SIGKILL
    (marked,) = read_marks(tmp_path / "marks")
    assert (marked.place, marked.action, marked.model, marked.jobs) == ("device-0", "step", "tiny", ("job_1", "job_2"))
    assert str(marked) == "step of tiny for job_1, job_2"


def test_a_thread_that_has_ended_its_work_leaves_no_mark(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    with marks.during("encode", jobs=["job_1"]):
        assert [marked.action for marked in read_marks(tmp_path)] == ["encode"]

    assert read_marks(tmp_path) == []


def test_more_jobs_than_a_file_holds_are_cut_off(tmp_path: Path) -> None:
    Marks(tmp_path).device(0).begin("step", "tiny", [f"job_{n}" for n in range(10_000)])

    (marked,) = read_marks(tmp_path)
    assert marked.jobs[0] == "job_0"
    assert 1_000 < len(marked.jobs) < 10_000


def test_a_damaged_mark_is_left_out(tmp_path: Path) -> None:
    Marks(tmp_path).device(0).begin("step", "tiny")
    (tmp_path / "device-1.mark").write_bytes(b"\x02" + bytes(7) + bytes(8) + b"\xff\x00\x00\x00no JSON")
    (tmp_path / "device-2.mark").write_bytes(b"short")

    assert [marked.place for marked in read_marks(tmp_path)] == ["device-0"]


def test_a_planned_stop_is_noted_until_the_marks_are_removed(tmp_path: Path) -> None:
    Marks(tmp_path / "marks").device(0).begin("step", "tiny")
    note_stop(tmp_path / "marks")
    assert is_stopping(tmp_path / "marks")

    remove_marks(tmp_path / "marks")

    assert not is_stopping(tmp_path / "marks")
    assert read_marks(tmp_path / "marks") == []


def test_a_worker_thread_is_overdue_after_its_limit_and_only_in_the_named_actions(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    with marks.during("prompt", "talker"):
        assert marks.overdue(-1.0, ["prompt"]) == "prompt of talker"
        assert marks.overdue(-1.0, ["texts"]) is None
        assert marks.overdue(60.0, ["prompt"]) is None
    assert marks.overdue(-1.0, ["prompt"]) is None
