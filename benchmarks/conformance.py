"""Is what the server gives what the library gives, for every pipeline class and architecture that can be built offline?

    python benchmarks/conformance.py --rows /tmp/rows.jsonl --write docs/models.md
    python benchmarks/conformance.py --only FluxPipeline WanPipeline Llama
    python benchmarks/conformance.py --lane        (no server: lanes in this process, unrounded values)

Tiny random checkpoints are saved with `save_pretrained`, added to a running server over HTTP, asked for by several jobs at once
with different prompts, seeds, steps and sizes, and each result is compared with the library's own. `--rows` keeps every row as
it is found: the same command goes on where it was cut off.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import torch

from benchmarks.conformance_chat import compare as compare_chat
from benchmarks.conformance_http import Proof
from benchmarks.conformance_lane import compare_in_lane
from benchmarks.conformance_rows import Rows, counts, write_tables
from benchmarks.families import FAMILIES
from benchmarks.families.decoders import DECODERS
from benchmarks.families.unserved import REASONS
from models.loading.load import quiet_libraries
from models.pipeline_source import text_pipelines
from tests.support.live_server import LiveServer


def main() -> None:
    arguments = common.arguments(
        __doc__,
        ("--only", {"nargs": "+", "default": None, "metavar": "NAME", "help": "classes or architectures to try"}),
        ("--lane", {"action": "store_true", "help": "without HTTP: unrounded values of lanes in this process"}),
        ("--rows", {"type": Path, "default": None, "metavar": "FILE", "help": "keep rows there; what it has is not tried again"}),
        ("--write", {"type": Path, "default": None, "metavar": "FILE", "help": "put the tables into this document"}),
    )  # fmt: skip
    quiet_libraries()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # networks this small lose time to a second
    torch.set_grad_enabled(False)
    rows = Rows(arguments.rows)
    wanted = [name for name in (*FAMILIES, *DECODERS) if arguments.only is None or name in arguments.only]
    wanted = [name for name in wanted if name not in rows and _can_be_tried(name)]
    (_in_lanes if arguments.lane else _over_http)(wanted, rows)
    report = common.Report("conformance")
    unlisted = {name for name, _ in text_pipelines()} - FAMILIES.keys() - REASONS.keys()
    found = counts(rows)
    report.add("pipeline classes tried", found["tried"])
    report.add("equal to the library", found["equal"], least=45)
    report.add("of these, merging", found["shared"], least=40)
    report.add("classes without a reason for being left out", len(unlisted), most=0)
    report.add("architectures equal to generate", found["chats"], least=20)
    report.save(arguments.json)
    for row in rows:
        if not row.equal:
            print(f"NOT EQUAL: {row}")
    if arguments.write is not None:
        write_tables(arguments.write, rows)


def _can_be_tried(name: str) -> bool:
    needs = FAMILIES[name].needs if name in FAMILIES else ""
    there = not needs or importlib.util.find_spec(needs) is not None
    if not there:
        print(f"{name:40} not tried: {needs} is not installed")
    return there


def _in_lanes(names: list[str], rows: Rows) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(compare_in_lane, [name for name in names if name in FAMILIES]):
            rows.add(row)
    for name in names:
        if name in DECODERS:
            rows.add(compare_chat(name))


def _over_http(names: list[str], rows: Rows) -> None:
    if not names:
        return
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = Path(scratch) / "data"
        data_dir.mkdir()
        live = LiveServer(data_dir, env={"OMP_NUM_THREADS": "1", "AGENTNAME_TORCH_THREADS": "1"}).start()
        try:
            proof = Proof(live, Path(scratch) / "checkpoints")
            for name in names:
                rows.add(proof.compare(name))
        finally:
            live.stop()


if __name__ == "__main__":
    sys.exit(main())
