"""Measures one load in a process of its own, with the code that PYTHONPATH names. Started by load_time.py.

Prints one line of JSON: seconds to read the catalogue, seconds and CPU seconds of the load, and the bytes by which the
resident set rose at most meanwhile.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from models.catalogue import Catalogue
from models.loading.load import load, quiet_libraries


def main(data_dir: Path, name: str) -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    began = time.perf_counter()
    catalogue = Catalogue.open(data_dir=data_dir, cache_dir=data_dir / "cache", builtin=data_dir / "none")
    catalogue_s = time.perf_counter() - began
    load(catalogue.get(f"small-{name}"), device="cpu", merging="off").close()  # imports what the load needs
    spec = catalogue.get(name)
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to VmRSS
    before = resident_bytes("VmRSS")
    began, cpu_began = time.perf_counter(), time.process_time()
    lane = load(spec, device="cpu", merging="off")
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    found = {
        "catalogue_s": catalogue_s,
        "load_s": seconds,
        "cpu_s": cpu_s,
        "peak_bytes": resident_bytes("VmHWM") - before,
    }
    print(json.dumps(found), flush=True)
    lane.close()


def resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
