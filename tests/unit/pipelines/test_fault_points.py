"""Faults happen where, when and as often as the file says, and nothing happens without the two variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import fault_points
from pipelines.fault_points import InjectedPanic

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    file = tmp_path / "faults.json"
    monkeypatch.setattr(fault_points, "_switchboard", fault_points._Switchboard(file))

    def arm(*faults: dict[str, Any]) -> None:
        file.write_text(json.dumps(faults))
        os.utime(file, ns=(len(file.read_text()), hash(str(faults)) & 0xFFFF_FFFF))

    return arm


def test_without_a_switchboard_a_point_does_nothing() -> None:
    fault_points.reach("load", "a model")


def test_a_fault_happens_at_its_point_and_for_what_it_is_about(board: Any) -> None:
    board({"at": "load", "do": "raise", "about": "bad"})
    fault_points.reach("step", "bad")
    fault_points.reach("load", "good")
    with pytest.raises(RuntimeError, match="injected at load"):
        fault_points.reach("load", "a bad model")


def test_a_fault_happens_from_its_nth_time_on_and_so_many_times(board: Any) -> None:
    board({"at": "step", "do": "panic", "nth": 2, "times": 2})
    fault_points.reach("step")
    for _ in range(2):
        with pytest.raises(InjectedPanic):
            fault_points.reach("step")
    fault_points.reach("step")


def test_faults_are_armed_and_disarmed_while_the_program_runs(board: Any) -> None:
    fault_points.reach("write")
    board({"at": "write", "do": "enospc", "times": 9})
    with pytest.raises(OSError, match="No space left"):
        fault_points.reach("write")
    board()
    fault_points.reach("write")


def test_how_often_a_fault_happened_outlives_the_process_that_it_ended(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps([{"at": "load", "do": "kill", "times": 1}]))
    environment = os.environ | {"AGENTNAME_FAULTS": str(file), "AGENTNAME_TESTING": "1"}
    command = [sys.executable, "-c", "from pipelines.fault_points import reach; reach('load')"]
    codes = [subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode for _ in range(2)]
    assert codes == [-9, 0]


def test_faults_are_refused_without_the_flag_for_tests() -> None:
    assert "AGENTNAME_TESTING=1" in fault_points.check_environment({"AGENTNAME_FAULTS": "x"})
    assert not fault_points.check_environment({"AGENTNAME_FAULTS": "x", "AGENTNAME_TESTING": "1"})
    assert not fault_points.check_environment({})
