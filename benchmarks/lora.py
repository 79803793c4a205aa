"""Measures the cost of LoRAs that requests choose, and compares the images with diffusers' own.

    python benchmarks/lora.py --json lora.json

Uses a tiny Stable Diffusion on the CPU and loads the adapters before the measurement. Jobs with and without adapters
alternate, so that each includes a switch. For comparison, the same forwards run in diffusers with the adapter always
on: that is the cost of the adapter's arithmetic without a switch.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

from pipelines.diffusion.lane import DiffusionLane
from tests.support.lanes.lane_play import direct, rendered, request
from tests.support.lanes.loras import make_lora, with_adapters
from tests.support.lanes.stock_families import FAMILIES

PAIRS = 20
SWITCH_MS = 50.0
SD = FAMILIES["sd15"]


def main() -> None:
    arguments = common.arguments(__doc__)
    report = common.Report("lora")
    with tempfile.TemporaryDirectory() as folder:
        ink, wash = make_lora(Path(folder), "ink", 1), make_lora(Path(folder), "wash", 2)
        lane = DiffusionLane(SD.build(), kind="image")
        jobs = {
            "without": request(SD, "without", steps=8),
            "one": request(SD, "one", steps=8, loras=(ink,)),
            "two": request(SD, "two", steps=8, loras=(ink, wash)),
        }
        began = time.perf_counter()
        first = {name: rendered(lane, [job])[name].frames for name, job in jobs.items()}
        report.add("first jobs, both adapters read", 1000 * (time.perf_counter() - began), "ms")
        spent: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(PAIRS):
            for name in ("without", "one", "without", "two"):  # each job switches from the adapters of the one before
                spent[name].append(cpu_ms(lambda job=jobs[name]: rendered(lane, [job])))
        alone = {name: stock_ms(job) for name, job in jobs.items()}
        bare = common.median(spent["without"])
        report.add("job without", bare, "ms of CPU")
        for name in ("one", "two"):
            report.add(
                f"job with {name}, more than without", common.median(spent[name]) - bare, "ms of CPU", most=SWITCH_MS
            )
            report.add(f"the same in diffusers, always on ({name})", alone[name] - alone["without"], "ms of CPU")
        for name in ("one", "two"):
            gap = float(np.abs(first[name] - with_adapters(jobs[name])).max())
            report.add(f"largest difference to diffusers with {name}", gap, "of 1", most=1e-4)
            moved = float(np.abs(first[name] - first["without"]).max())
            report.add(f"what {name} changes", moved, "of 1", least=1e-2)
        lane.close()
    report.save(arguments.json)


def stock_ms(job: Any) -> float:
    pipeline = SD.build()
    for lora in job.loras:
        path = Path(lora.path)
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=lora.name)
    if job.loras:
        pipeline.set_adapters([lora.name for lora in job.loras], [lora.weight for lora in job.loras])
    pipeline.set_progress_bar_config(disable=True)
    direct(pipeline, job)
    return common.median([cpu_ms(lambda: direct(pipeline, job)) for _ in range(PAIRS)])


def cpu_ms(work: Any) -> float:
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


if __name__ == "__main__":
    main()
