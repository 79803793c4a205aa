"""What swapping costs: drop-in to first answer, 50 swaps among six checkpoints under load, load against the library alone.

    python -m benchmarks.swapping [--swaps 50]

Tiny random Stable Diffusion checkpoints; the server is its own process, as `serve` starts it. Printed as one table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.families import FAMILIES
from tests.live_server import LiveServer

CHECKPOINTS = 6
SMALL = {"type": "image", "steps": 2, "width": 64, "height": 64, "prompt": "a red circle"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--swaps", type=int, default=50)
    swaps = parser.parse_args().swaps
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        FAMILIES["StableDiffusionPipeline"].build().save_pretrained(root / "made")
        alone_s = _library_alone(root / "made")
        server = LiveServer(root / "data", env={"AGENTNAME_MIN_RESIDENCY_S": "0", "AGENTNAME_DEVICE": "cpu"})
        server.data_dir.mkdir()
        server.start()
        try:
            server.wait(server.submit(**SMALL, model="tiny-scenes"))  # the libraries are imported with the first job
            first_s = _drop_in(server, root / "made", "sd0")
            for index in range(1, CHECKPOINTS):
                _drop_in(server, root / "made", f"sd{index}")
            failed, load_ms, rss = _swap(server, swaps)
        finally:
            server.stop()
    half = len(rss) // 2
    print("| measure | value |\n|---|---|")
    print(f"| drop-in to first answer | {first_s:.1f} s |")
    print(f"| swaps, failed jobs | {swaps}, {failed} |")
    print(f"| RSS at half and at the end | {rss[half] / 2**20:.0f}, {rss[-1] / 2**20:.0f} MiB |")
    load_s = sorted(load_ms)[len(load_ms) // 2] / 1000
    print(f"| load, median; library alone | {load_s:.2f} s, {alone_s:.2f} s: {load_s / alone_s:.2f}x |")


def _library_alone(folder: Path) -> float:
    """Best of three, warm: what from_pretrained takes in a process of its own imports."""
    import diffusers

    taken = []
    for _ in range(3):
        began = time.monotonic()
        diffusers.StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        taken.append(time.monotonic() - began)
    return min(taken)


def _drop_in(server: LiveServer, made: Path, name: str) -> float:
    """Copy into the watched folder; seconds from the end of the copy to the finished picture."""
    import shutil

    shutil.copytree(made, server.data_dir / "models" / name)
    began = time.monotonic()
    while server.get(f"/api/models/{name}").status != 200:
        time.sleep(0.05)
    status = server.wait(server.submit(**SMALL, model=name))
    assert status["status"] == "completed", status
    return time.monotonic() - began


def _swap(server: LiveServer, swaps: int) -> tuple[int, list[int], list[int]]:
    """One after another among all checkpoints, each unloaded behind the next, while another job waits."""
    failed, load_ms, rss = 0, [], []
    for index in range(CHECKPOINTS):
        server.post(f"/api/models/sd{index}/unload", {})
    process = psutil.Process(server.server_pid())
    for index in range(swaps):
        name = f"sd{index % CHECKPOINTS}"
        jobs = [server.submit(**SMALL, model=model) for model in (name, "tiny-scenes")]
        for job in jobs:
            status = server.wait(job)
            failed += status["status"] != "completed"
            if status["model"] == name:
                load_ms.append(status["metrics"]["loadMs"])
        server.post(f"/api/models/{name}/unload", {})
        rss.append(process.memory_info().rss)
    return failed, load_ms, rss


if __name__ == "__main__":
    main()
