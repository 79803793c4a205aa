"""Switching part of the device check. `gpu_check.py` runs it and describes the models.

Compares unparking with a bare copy from host memory, and our load with diffusers' own. The two sides alternate and
their medians are compared. Files come from the page cache.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch

from models.catalogue import Catalogue
from models.loading.load import load
from models.loading.read_ahead import read_ahead
from pipelines import device as device_module
from pipelines.diffusion.lane import DiffusionLane
from scripts.gpu_memory import stable_diffusion

ROUNDS = {False: 7, True: 5}  # with --tiny or not → how often

Record = Callable[..., None]


def check_switching(tiny: bool, device: str, record: Record) -> None:
    pipeline = stable_diffusion(tiny, device)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(Path(folder) / "models/sd")
        record(parking=_parking(pipeline, tiny, device))
        del pipeline
        device_module.release_cache()
        record(loading=_loading(Path(folder), tiny, device))


def _parking(pipeline: Any, tiny: bool, device: str) -> dict[str, Any]:
    lane = DiffusionLane(pipeline, kind="image", device_name=device)
    if not lane.park(list(lane.components)):
        lane.close()
        return {"moves": False, "why": "the device has no memory of its own, so there is no copy to measure"}
    host = [device_module.to_host(tensor) for tensor in _tensors(pipeline)]
    ours, bare = [], []
    for _ in range(ROUNDS[tiny]):
        ours.append(_timed(device, lambda: lane.unpark(list(lane.parked))))
        lane.park(list(lane.components))
        bare.append(_timed(device, lambda: [tensor.to(device, non_blocking=True) for tensor in host]))
        device_module.release_cache()
    lane.close()
    return {"moves": True, "bytes": sum(tensor.nbytes for tensor in host), **_compared(ours, bare)}


def _tensors(pipeline: Any) -> list[torch.Tensor]:
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return [tensor.data for part in parts for tensor in (*part.parameters(), *part.buffers())]


def _loading(folder: Path, tiny: bool, device: str) -> dict[str, Any]:
    spec = Catalogue.open(data_dir=folder, cache_dir=folder / "cache", builtin=folder / "none").get("sd")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    smoke_tested = {spec.fingerprint}  # only a first load includes a trial run

    def ours() -> None:
        read_ahead(spec)
        load(spec, device=device, smoke_tested=smoke_tested).close()

    def stock() -> None:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            spec.path, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        pipeline.to(device)

    ours(), stock()  # the first call of each includes imports
    ours_s, stock_s = [], []
    for _ in range(ROUNDS[tiny]):
        ours_s.append(_timed(device, ours))
        device_module.release_cache()
        stock_s.append(_timed(device, stock))
        device_module.release_cache()
    return _compared(ours_s, stock_s)


def _timed(device: str, work: Callable[[], Any]) -> float:
    device_module.finish(device)
    began = time.perf_counter()
    held = work()
    device_module.finish(device)
    seconds = time.perf_counter() - began
    del held
    return seconds


def _compared(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    mine, other = statistics.median(ours), statistics.median(theirs)
    return {"seconds": round(mine, 4), "against_seconds": round(other, 4), "ratio": round(mine / other, 3), "most": 1.3}
