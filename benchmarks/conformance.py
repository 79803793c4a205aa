"""Compares the server's results with the library's for every pipeline class and architecture that builds offline.

    python benchmarks/conformance.py --rows /tmp/rows.jsonl --write docs/models.md    all of them, four minutes
    python benchmarks/conformance.py --only FluxPipeline WanPipeline Llama
    python benchmarks/conformance.py --lane        lanes in this process instead of a server; unrounded values

Saves tiny random checkpoints with `save_pretrained`, adds them to a running server over HTTP, submits several jobs at
once with different prompts, seeds, steps and sizes, and compares each result with the library's own. `--rows` saves
each row as soon as it is known: the same command then continues where it was interrupted.
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
from benchmarks.conformance_http import HttpComparison
from benchmarks.conformance_lane import compare_in_lane
from benchmarks.conformance_rows import Rows, counts, write_tables
from benchmarks.families import FAMILIES, PICTURE_FAMILIES
from benchmarks.families.decoders import DECODERS
from benchmarks.families.unserved import REASONS
from models.checkpoint.pipeline_source import text_pipelines
from models.loading.load import quiet_libraries
from tests.support.http.live_server import LiveServer


def main() -> None:
    file = {"type": Path, "default": None, "metavar": "FILE"}
    arguments = common.arguments(
        __doc__,
        ("--only", {"nargs": "+", "default": None, "metavar": "NAME", "help": "classes or architectures to compare"}),
        ("--lane", {"action": "store_true", "help": "without HTTP: unrounded values of lanes in this process"}),
        ("--pictures", {"action": "store_true", "help": "the classes that are given pictures, instead of the others"}),
        ("--rows", {**file, "help": "save rows to this file, and skip those that it already has"}),
        ("--write", {**file, "help": "write the tables into this document"}),
    )
    quiet_libraries()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # networks this small are slower with two
    torch.set_grad_enabled(False)
    rows = Rows(arguments.rows)
    families = PICTURE_FAMILIES if arguments.pictures else FAMILIES
    names = [
        name
        for name in (families if arguments.pictures else (*FAMILIES, *DECODERS))
        if arguments.only is None or name in arguments.only
    ]
    names = [name for name in names if name not in rows and _is_available(name)]
    (_in_lanes if arguments.lane else _over_http)(names, rows)
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


def _is_available(name: str) -> bool:
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
            comparison = HttpComparison(live, Path(scratch) / "checkpoints")
            for name in names:
                rows.add(comparison.compare(name))
        finally:
            live.stop()


if __name__ == "__main__":
    sys.exit(main())
