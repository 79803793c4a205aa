"""The device check, run on a CPU with tiny models, finds equality, batching, freed memory and preemption."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.slow
def test_the_tiny_check_finds_equality_and_batching(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "scripts/gpu_check.py", "--tiny", "--device", "cpu", "--out", str(out)]
    subprocess.run([*command, "--parts", "flux", "llama"], cwd=ROOT, check=True, timeout=300, capture_output=True)
    found = json.loads(out.read_text())

    assert found["device"] == "cpu"
    flux, llama = found["parts"]["flux"], found["parts"]["llama"]
    assert flux["agrees"]
    assert (flux["alone_gap"], flux["deterministic_gap"]) == (0, 0)
    assert flux["merging"] == "on"
    assert flux["jobs_8"]["batch_peak"] == 8
    assert llama["alone_equals_among_8"]
    assert llama["chats_32"]["ended"] == 32


@pytest.mark.slow
def test_the_tiny_check_finds_memory_freed_and_a_video_preempted_by_a_chat(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "scripts/gpu_check.py", "--tiny", "--device", "cpu", "--out", str(out)]
    parts = ["memory", "latency", "switching"]
    subprocess.run([*command, "--parts", *parts], cwd=ROOT, check=True, timeout=300, capture_output=True)
    memory, latency, switching = (json.loads(out.read_text())["parts"][name] for name in parts)

    assert 0.9 <= memory["peaks"]["lane_against_direct"] <= 1.1
    assert memory["out_of_memory"]["eight_all_rendered"]
    assert memory["out_of_memory"]["widths_refused"]
    assert memory["out_of_memory"]["alone_without_room"] == "out_of_memory"
    assert memory["swaps"]["back_to_baseline"]
    assert not switching["parking"]["moves"]
    assert switching["loading"]["ratio"] > 0  # its value depends on the load of the machine
    assert latency["at_every_block"]["of_them_midway"] > 0
