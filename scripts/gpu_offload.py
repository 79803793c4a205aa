"""The part of the device check that runs a model whose weights stay in host memory and are copied block by block."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_results import peak_bytes, reset_peak, timed
from models.catalogue import Catalogue
from models.loading.load import load
from pipelines import device as device_module
from scripts.gpu_memory import stable_diffusion
from tests.support.lanes.lane_play import gap, rendered, request
from tests.support.lanes.stock_families import FAMILIES

STEPS = {False: 10, True: 2}  # with --tiny or not

Record = Callable[..., None]


def check_offload(tiny: bool, device: str, record: Record) -> None:
    """Compares a job of a model that is offloaded with the same job of the same model on the device."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stable_diffusion(tiny, device).save_pretrained(folder / "models/sd")
        device_module.release_cache()
        spec = Catalogue.open(data_dir=folder, cache_dir=folder / "cache", builtin=folder / "none").get("sd")
        size: dict[str, Any] = {} if tiny else {"width": 512, "height": 512}
        job = request(FAMILIES["sd15"], "job", steps=STEPS[tiny], **size)
        frames = {}
        for offload in (False, True):
            lane: Any = load(spec, device=device, offload=offload)
            rendered(lane, [job])
            reset_peak(device)
            done, seconds = timed(device, functools.partial(rendered, lane, [job]))
            frames[offload] = done["job"].frames
            facts = {"seconds": round(seconds, 3), "peak_bytes": peak_bytes(device), "warnings": list(lane.warnings)}
            record(**{"offloaded" if offload else "resident": facts})
            lane.close()
            device_module.release_cache()
    record(gap=gap(frames[True], frames[False]), agrees=gap(frames[True], frames[False]) == 0.0)
