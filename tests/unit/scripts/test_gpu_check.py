"""The device check, run on a CPU with tiny models, finds equality, batching, freed memory and moved weights.

A process of it that dies or hangs costs the part that it was at.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from scripts.gpu_check import Child, Part, ResultFile
from tests.support.paths import ROOT

PARTS = [Part("one", 30.0, 1), Part("two", 30.0, 1), Part("three", 30.0, 1)]


def file_in(folder: Path) -> ResultFile:
    return ResultFile(folder / "gpu.json", {"parts": {}})


def program(folder: Path, *then: str) -> list[str]:
    """A process that is done with its first part and at its second, and does `then`."""
    script = folder / "process.py"
    script.write_text(
        textwrap.dedent("""
            import json, os, sys, time
            out = sys.argv[sys.argv.index("--out") + 1]
            first, second = sys.argv[sys.argv.index("--parts") + 1 :][:2]
            with open(out + ".new", "w") as file:
                json.dump({"at": second, "parts": {first: {"wall_s": 1.0}, second: {"began": True}}}, file)
            os.rename(out + ".new", out)
        """)
        + "\n".join(then)
    )
    return [sys.executable, str(script)]


def test_a_process_that_dies_costs_the_part_that_it_was_at(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    left = Child(PARTS, file, time.monotonic() + 60, program=program(tmp_path, "os._exit(86)")).run()

    assert [part.name for part in left] == ["three"]
    assert file.found["parts"] == {
        "one": {"wall_s": 1.0},
        "two": {"began": True, "error": "the process ended with code 86"},
    }
    assert json.loads(file.out.read_text()) == file.found


def test_a_process_that_hangs_is_ended_at_the_limit_of_its_part(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    parts = [PARTS[0], Part("two", 0.3, 1), PARTS[2]]
    left = Child(parts, file, time.monotonic() + 60, program=program(tmp_path, "time.sleep(60)")).run()

    assert [part.name for part in left] == ["three"]
    assert file.found["parts"]["two"]["error"] == "stopped after 0 s"


def test_parts_are_skipped_once_the_time_is_up(tmp_path: Path) -> None:
    file = file_in(tmp_path)

    assert Child(PARTS, file, time.monotonic(), program=["/bin/false"]).run() == []
    assert set(file.found["parts"]) == {"one", "two", "three"}
    assert file.found["parts"]["three"] == {"skipped": "the time was up"}


@pytest.mark.slow
def test_the_tiny_check_finds_equality_freed_memory_and_moved_weights(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "scripts/gpu_check.py", "--tiny", "--device", "cpu", "--out", str(out)]
    parts = ["facts", "flux", "chat", "switching", "offload", "memory", "pictures"]
    subprocess.run([*command, "--parts", *parts], cwd=ROOT, check=True, timeout=300, capture_output=True)
    facts, flux, chat, switching, offload, memory, pictures = (
        json.loads(out.read_text())["parts"][name] for name in parts
    )

    assert facts["device"] == "cpu"
    assert flux["agrees"]
    assert (flux["alone_gap"], flux["deterministic_gap"]) == (0, 0)
    assert flux["merging"] == "on"
    assert flux["jobs_4"]["batch_peak"] == 4
    assert chat["alone_equals_among_8"]
    assert chat["chats_8"]["ended"] == 8
    assert not switching["parking"]["moves"]
    assert switching["loading"]["ratio"] > 0  # its value depends on the load of the machine
    assert offload["agrees"]
    assert offload["offloaded"]["warnings"]
    assert 0.9 <= memory["peaks"]["lane_against_direct"] <= 1.1
    assert memory["out_of_memory"]["eight_all_rendered"]
    assert memory["out_of_memory"]["widths_refused"]
    assert memory["out_of_memory"]["alone_without_room"] == "out_of_memory"
    assert memory["swaps"]["back_to_baseline"]
    assert pictures["agrees"]
    assert set(pictures["alone_gaps"].values()) == {0}
    assert pictures["held_against_base_and_adapter"] <= 1.02
    assert pictures["upscaler_gap"] == 0
