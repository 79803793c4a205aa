"""What swapping costs: drop-in to first picture, 50 swaps among six checkpoints under load, load against the library alone.

    python benchmarks/swapping.py [--swaps 50]

Tiny random Stable Diffusion checkpoints; the server is its own process, as `serve` starts it. The library's own loads are timed
between the swaps, so that whatever else the machine does weighs on both.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import diffusers
import psutil
import torch

from benchmarks.families import FAMILIES
from models.loading import quiet_libraries
from tests.live_server import LiveServer

CHECKPOINTS = 6
SMALL = {"type": "image", "steps": 2, "width": 64, "height": 64, "prompt": "a red circle"}
ENV = {"AGENTNAME_MIN_RESIDENCY_S": "0", "AGENTNAME_DEVICE": "cpu", "AGENTNAME_TORCH_THREADS": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip


@dataclass
class Seen:
    failed: int = 0
    load_s: list[float] = field(default_factory=list)
    alone_s: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)


def main() -> None:
    said = common.arguments(__doc__ or "", ("--swaps", {"type": int, "default": 50}))
    quiet_libraries()
    torch.set_num_threads(1)
    report = common.Report("swapping: six checkpoints in turn, another job beside each")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        FAMILIES["StableDiffusionPipeline"].build().save_pretrained(root / "made")
        _library_alone(root / "made")  # its imports
        server = LiveServer(root / "data", env=ENV)
        server.data_dir.mkdir()
        server.start()
        try:
            server.wait(server.submit(**SMALL, model="tiny-scenes"))  # the libraries are imported with the first job
            drop_ins = [_drop_in(server, root / "made", f"sd{index}") for index in range(CHECKPOINTS)]
            seen = _swap(server, said.swaps, root / "made")
        finally:
            server.stop()
    half = len(seen.rss) // 2
    report.add("drop-in to first picture, median of six", common.median(drop_ins), "s", most=15)
    report.add("swaps", said.swaps)
    report.add("failed jobs", seen.failed, most=0)
    report.add("resident set, growth over the last half", (seen.rss[-1] / seen.rss[half] - 1) * 100, "%", most=1)
    report.add("load, median", common.median(seen.load_s), "s")
    report.add("the same by the library alone, median", common.median(seen.alone_s), "s")
    report.add("load over library alone", common.median(seen.load_s) / common.median(seen.alone_s), "x", most=1.3)
    report.save(said.json)


def _library_alone(folder: Path) -> float:
    began = time.monotonic()
    diffusers.StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return time.monotonic() - began


def _drop_in(server: LiveServer, made: Path, name: str) -> float:
    """Copy into the watched folder; seconds from the end of the copy to the finished picture."""
    shutil.copytree(made, server.data_dir / "models" / name)
    began = time.monotonic()
    while server.get(f"/api/models/{name}").status != 200:
        time.sleep(0.05)
    status = server.wait(server.submit(**SMALL, model=name))
    assert status["status"] == "completed", status
    return time.monotonic() - began


def _swap(server: LiveServer, swaps: int, made: Path) -> Seen:
    """One after another among all checkpoints, each unloaded behind the next, while another model works."""
    seen = Seen()
    for index in range(CHECKPOINTS):
        server.post(f"/api/models/sd{index}/unload", {})
    process = psutil.Process(server.server_pid())
    for index in range(swaps):
        name = f"sd{index % CHECKPOINTS}"
        for job in [server.submit(**SMALL, model=model) for model in (name, "tiny-scenes")]:
            status = _ended(server, job)
            seen.failed += status["status"] != "completed"
            if status["model"] == name:
                seen.load_s.append(status["metrics"]["loadMs"] / 1000)
        server.post(f"/api/models/{name}/unload", {})
        seen.rss.append(process.memory_info().rss)
        seen.alone_s.append(_library_alone(made))
    return seen


def _ended(server: LiveServer, job: str) -> dict[str, Any]:
    """Asked for ten times a second: asking oftener would take from the load that is measured."""
    while (status := server.get(f"/api/status/{job}").json)["status"] in ("queued", "processing"):
        time.sleep(0.1)
    return dict(status)


if __name__ == "__main__":
    main()
