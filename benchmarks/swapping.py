"""Measures model swaps: from a new checkpoint to its first image, swaps under load, loads compared with diffusers.

    python benchmarks/swapping.py [--swaps 50] [--rounds 15] [--no-large]

Uses random weights: tiny Stable Diffusion checkpoints, which show the costs other than reading best, and one checkpoint
of SDXL's architecture, about 2 GB in half precision. The server is its own process, as `serve` starts it. Loads of the
library alternate with the server's, so that other load on the machine affects both. On a CPU nothing is parked, so that
unparking is not measured.
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
from models.loading.load import quiet_libraries
from pipelines import device
from scripts import gpu_models
from scripts.gpu_build import built
from tests.support.http.live_server import LiveServer

CHECKPOINTS = 6
LARGE_ROUNDS = 3
SMALL = {"type": "image", "steps": 2, "width": 64, "height": 64, "prompt": "a red circle"}
ENV = {
    "AGENTNAME_MIN_RESIDENCY_S": "0",
    "AGENTNAME_DEVICE": "cpu",
    "AGENTNAME_TORCH_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class SwapResults:
    failed: int = 0
    load_s: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)


def main() -> None:
    arguments = common.arguments(
        __doc__ or "",
        ("--swaps", {"type": int, "default": 50, "help": "default: 50"}),
        ("--rounds", {"type": int, "default": 15, "help": "loads of each side (default: 15)"}),
        ("--no-large", {"action": "store_true", "help": "leave out the checkpoint of 2 GB"}),
    )
    quiet_libraries()
    device.keep_what_is_imported()  # as the server does: garbage collections then skip the libraries
    torch.set_num_threads(1)
    report = common.Report("swapping: six checkpoints in turn, each beside another job")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        FAMILIES["StableDiffusionPipeline"].build().save_pretrained(root / "made")
        _library_alone(root / "made")  # the first call imports the library
        server = LiveServer(root / "data", env=ENV)
        server.data_dir.mkdir()
        server.start()
        try:
            server.wait(server.submit(**SMALL, model="tiny-scenes"))  # the first job imports the libraries
            drop_ins = [_drop_in(server, root / "made", f"sd{index}")[0] for index in range(CHECKPOINTS)]
            report.add("drop-in to first picture, median of six", common.median(drop_ins), "s", most=15)
            _switch(server, "sd0", root / "made", arguments.rounds, report)
            _swap(server, arguments.swaps, report)
            if not arguments.no_large:
                _large(server, root, report)
        finally:
            server.stop()
    report.save(arguments.json)


def _library_alone(folder: Path) -> tuple[float, float]:
    """Loads the checkpoint with diffusers. Returns seconds and CPU seconds."""
    began, cpu = time.monotonic(), time.process_time()
    diffusers.DiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return time.monotonic() - began, time.process_time() - cpu


def _drop_in(server: LiveServer, made: Path, name: str) -> tuple[float, float]:
    """Copies a checkpoint into the watched folder and runs a job.

    Returns the seconds from the end of the copy to the image, and those of the load among them.
    """
    shutil.copytree(made, server.data_dir / "models" / name)
    began = time.monotonic()
    while server.get(f"/api/models/{name}").status != 200:
        time.sleep(0.05)
    status = server.wait(server.submit(**SMALL, model=name))
    assert status["status"] == "completed", status
    return time.monotonic() - began, status["metrics"]["loadMs"] / 1000


def _switch(server: LiveServer, name: str, made: Path, rounds: int, report: common.Report) -> None:
    """Compares loads without other jobs, from submission to the first step, with loads of the library.

    The CPU time of a load is that of a job that includes the load less that of a job that does not.
    """
    server_s, server_cpu, alone_s, alone_cpu = [], [], [], []
    for _ in range(rounds):
        _unload(server, name)
        cold, cpu_of_cold = _cpu_of(server, name)
        _, cpu_of_warm = _cpu_of(server, name)
        server_s.append(cold["metrics"]["queueMs"] / 1000)
        server_cpu.append(cpu_of_cold - cpu_of_warm)
        seconds, cpu = _library_alone(made)
        alone_s.append(seconds)
        alone_cpu.append(cpu)
    _unload(server, name)
    report.add(f"{name}: submission to first step, median of {rounds}", common.median(server_s), "s")
    report.add(f"{name}: library alone, median", common.median(alone_s), "s")
    report.add(f"{name}: to first step over library", common.median(server_s) / common.median(alone_s), "x", most=1.3)
    report.add(f"{name}: the same in CPU time", sum(server_cpu) / sum(alone_cpu), "x")


def _cpu_of(server: LiveServer, name: str) -> tuple[dict[str, Any], float]:
    """Runs a job. Returns its status and the CPU seconds that the server took."""
    process = psutil.Process(server.server_pid())
    before = process.cpu_times()
    status = _ended(server, server.submit(**SMALL, model=name))
    assert status["status"] == "completed", status
    after = process.cpu_times()
    return status, after.user + after.system - before.user - before.system


def _unload(server: LiveServer, name: str) -> None:
    server.post(f"/api/models/{name}/unload", {})
    while _state(server, name) != "available":
        time.sleep(0.05)


def _state(server: LiveServer, name: str) -> str:
    models = server.get("/api/models").json["models"]
    return next(str(model["state"]) for model in models if model["name"] == name)


def _swap(server: LiveServer, swaps: int, report: common.Report) -> None:
    """Loads, uses and unloads all checkpoints in turn while another model works."""
    results = SwapResults()
    for index in range(CHECKPOINTS):
        _unload(server, f"sd{index}")
    process = psutil.Process(server.server_pid())
    for index in range(swaps):
        name = f"sd{index % CHECKPOINTS}"
        for job in [server.submit(**SMALL, model=model) for model in (name, "tiny-scenes")]:
            status = _ended(server, job)
            results.failed += status["status"] != "completed"
            if status["model"] == name:
                results.load_s.append(status["metrics"]["loadMs"] / 1000)
        server.post(f"/api/models/{name}/unload", {})
        results.rss.append(process.memory_info().rss)
    half, last = results.rss[swaps // 2 : swaps * 3 // 4], results.rss[swaps * 3 // 4 :]
    growth = common.median(last) / common.median(half) - 1
    report.add("swaps", swaps)
    report.add("failed jobs", results.failed, most=0)
    report.add("resident set, last quarter over the one before", growth * 100, "%", most=1)
    report.add("load beside another job's steps, median", common.median(results.load_s), "s")


def _large(server: LiveServer, root: Path, report: common.Report) -> None:
    made, name = root / "large", "xl"
    build = lambda: gpu_models.stable_diffusion_xl(blocks=(1, 1, 2))  # noqa: E731
    built("cpu", torch.float16, build).save_pretrained(made)
    n_bytes = sum(file.stat().st_size for file in made.rglob("*.safetensors"))
    report.add("an SDXL of fewer blocks, in half precision", n_bytes / 2**30, "GiB")
    seconds, load_s = _drop_in(server, made, name)
    report.add("from the end of its copy to the first picture", seconds, "s")
    report.add("of that its load, one-step trial included", load_s, "s", most=15)
    _switch(server, name, made, LARGE_ROUNDS, report)


def _ended(server: LiveServer, job: str) -> dict[str, Any]:
    """Waits for the end of the job. Polls ten times per second: more would slow the load that is measured."""
    while (status := server.get(f"/api/status/{job}").json)["status"] in ("queued", "processing"):
        time.sleep(0.1)
    return dict(status)


if __name__ == "__main__":
    main()
