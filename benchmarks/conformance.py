"""Compares the server's results with the library's for every pipeline class and architecture that builds offline.

    python benchmarks/conformance.py --rows /tmp/rows.jsonl --write docs/models.md    all of them, four minutes
    python benchmarks/conformance.py --only FluxPipeline WanPipeline Llama
    python benchmarks/conformance.py --pictures    the classes that are given pictures or clips
    python benchmarks/conformance.py --lane        lanes in this process instead of a server; unrounded values

Saves tiny random checkpoints with `save_pretrained`, adds them to a running server over HTTP, submits several jobs at
once with different prompts, seeds, steps and sizes, and compares each result with the library's own. `--rows` saves
each row as soon as it is known: the same command then continues where it was interrupted.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import multiprocessing.util
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import common
import torch

from benchmarks.conformance_chat import compare as compare_chat
from benchmarks.conformance_http import HttpComparison
from benchmarks.conformance_lane import compare_in_lane, compare_pictures_in_lane
from benchmarks.conformance_pictures_http import PictureComparison
from benchmarks.conformance_rows import Row, Rows, counts, write_tables
from benchmarks.families import FAMILIES, PICTURE_FAMILIES, Family
from benchmarks.families.decoders import DECODERS
from benchmarks.families.unserved import without_reason
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
    names = [name for name in (*families, *(() if arguments.pictures else DECODERS)) if name not in rows]
    names = [name for name in names if arguments.only is None or name in arguments.only]
    names = [name for name in names if _is_available(families.get(name))]
    if arguments.lane:
        _in_lanes(names, families, rows)
    else:
        _over_http(names, arguments.pictures, rows)
    report = common.Report("conformance")
    found = counts(rows)
    report.add("pipeline classes tried", found["tried"])
    report.add("equal to the library", found["equal"], least=90 if arguments.pictures else 45)
    report.add("of these, merging", found["shared"], least=60 if arguments.pictures else 40)
    report.add("classes without a reason for being left out", len(without_reason()), most=0)
    if not arguments.pictures:
        report.add("architectures equal to generate", found["chats"], least=20)
    report.save(arguments.json)
    for row in rows:
        if not row.equal:
            print(f"NOT EQUAL: {row}")
    if arguments.write is not None:
        write_tables(arguments.write, rows, pictures=arguments.pictures)


def _is_available(family: Family | None) -> bool:
    there = family is None or not family.needs or importlib.util.find_spec(family.needs) is not None
    if family is not None and not there:
        print(f"{family.name:40} not tried: {family.needs} is not installed")
    return there


def _in_lanes(names: list[str], families: Mapping[str, Family], rows: Rows) -> None:
    compare = compare_pictures_in_lane if families is PICTURE_FAMILIES else compare_in_lane
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(compare, [name for name in names if name in families]):
            rows.add(row)
    for name in names:
        if name in DECODERS:
            rows.add(compare_chat(name))


def _over_http(names: list[str], pictures: bool, rows: Rows) -> None:
    """Compares with two servers at once, each beside a process that calls the library."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=_start_server, initargs=(pictures,)) as pool:
        for row in pool.map(_compared, names):
            rows.add(row)


_comparison: HttpComparison | None = None  # that of this process


def _start_server(pictures: bool) -> None:
    global _comparison  # the pool passes no state to its tasks
    quiet_libraries()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    scratch = Path(tempfile.mkdtemp(prefix="conformance-"))
    data_dir = scratch / "data"
    data_dir.mkdir()
    live = LiveServer(data_dir, env={"OMP_NUM_THREADS": "1", "AGENTNAME_TORCH_THREADS": "1"}).start()
    multiprocessing.util.Finalize(None, _stop_server, (live, scratch), exitpriority=10)
    _comparison = (PictureComparison if pictures else HttpComparison)(live, scratch / "checkpoints")


def _stop_server(live: LiveServer, scratch: Path) -> None:
    live.stop()
    shutil.rmtree(scratch, ignore_errors=True)


def _compared(name: str) -> Row:
    assert _comparison is not None
    return _comparison.compare(name)


if __name__ == "__main__":
    sys.exit(main())
