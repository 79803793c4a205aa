"""Damages checkpoints, one random edit each, and compares what the server makes of them with the library.

    python benchmarks/damaged_checkpoints.py --cases 2000 --rows /tmp/rows.jsonl
    python benchmarks/damaged_checkpoints.py --one 137             one case again, with all that is known of it
    python benchmarks/damaged_checkpoints.py --family Flux --only-edit dropped --cases 50
    python benchmarks/damaged_checkpoints.py --server --cases 40   over HTTP, against one server that must survive

Ten small checkpoints of random numbers; of each copy one file is changed: a header, an index, a tensor, a config or a
tokenizer. A copy must be refused with a reason that names something, or give what the library gives. It must never be
served with a parameter that was in no file, nor end in an error that is none of ours. Exit code 1 when one does.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from random import Random

import common

from benchmarks.damage_copy import CHECKPOINT
from benchmarks.damage_families import SOUND
from benchmarks.damage_pool import quiet, run
from benchmarks.damage_server import run_over_http
from benchmarks.damage_verdict import FAILURES, Case, Row

REPORTED = (
    "too strict",
    "refused, library serves",
    "refused vaguely",
    "out of memory",
    "job fails",
)  # to be judged by a reader

QUIET = {  # of the children, from their first import on
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "critical",
    "DIFFUSERS_VERBOSITY": "critical",
    "TQDM_DISABLE": "1",
}


def main() -> int:
    number = {"type": int, "metavar": "N"}
    arguments = common.arguments(
        __doc__,
        ("--cases", {**number, "default": 2000, "help": "default: 2000"}),
        ("--seed", {**number, "default": 0, "help": "of all edits (default: 0)"}),
        ("--children", {**number, "default": 2, "help": "processes (default: 2)"}),
        ("--family", {"choices": [sound.name for sound in SOUND], "default": None, "help": "one of the ten alone"}),
        ("--only-edit", {"default": None, "metavar": "NAME", "help": "one kind of edit alone"}),
        ("--one", {**number, "default": None, "help": "the number of one case"}),
        ("--rows", {"type": Path, "default": None, "metavar": "FILE", "help": "write a line of JSON for each case"}),
        ("--server", {"action": "store_true", "help": "over HTTP, against a server in its own process"}),
    )
    os.environ |= QUIET
    quiet()
    numbers = range(arguments.cases) if arguments.one is None else [arguments.one]
    cases = [plan(n, arguments.seed, arguments.family, arguments.only_edit) for n in numbers]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_sound(scratch, {case.sound for case in cases})
        if arguments.server:
            report = common.Report("damaged checkpoints over HTTP")
            run_over_http(cases, scratch, arguments.seed, report)
            report.save(arguments.json)
            return int(any(row["ok"] is False for row in report.rows))
        rows = []
        for row in run(cases, scratch, arguments.seed, arguments.children):
            rows.append(row)
            _show(row, arguments.rows, everything=arguments.one is not None)
    return _report(sorted(rows, key=lambda row: row.case), arguments.json)


def plan(number: int, seed: int, family: str | None = None, edit: str | None = None) -> Case:
    """Returns the case of this number. Families take turns; the part that is damaged is drawn."""
    chosen = [sound for sound in SOUND if family in (None, sound.name)]
    if edit is not None:
        chosen = [sound for sound in chosen if any(edit == e.__name__ for es in sound.edits().values() for e in es)]
    if not chosen:
        raise SystemExit(f"no checkpoint has the edit {edit!r}")
    sound = chosen[number % len(chosen)]
    parts = [part for part, edits in sound.edits().items() if edit is None or any(edit == e.__name__ for e in edits)]
    return Case(number, sound.name, Random(f"part-{seed}-{number}").choice(parts), edit)


def write_sound(scratch: Path, names: Iterable[str]) -> None:
    for sound in SOUND:
        if sound.name in names:
            folder = scratch / sound.name / CHECKPOINT
            folder.mkdir(parents=True)
            sound.write(folder)


def _show(row: Row, file: Path | None, *, everything: bool) -> None:
    if file is not None:
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(row)) + "\n")
    if everything or row.failed or row.verdict in REPORTED:
        print(f"{row.case:5} {row.family:18} {row.edit:24} {row.verdict.upper()}: {row.what}", flush=True)
        print(f"      server:  {row.message[:600]}\n      library: {row.library}", flush=True)


def _report(rows: list[Row], out: Path | None) -> int:
    verdicts = sorted({row.verdict for row in rows}, key=lambda verdict: (verdict in FAILURES, verdict))
    for title, key in (("family", "family"), ("part", "part"), ("edit", "edit")):
        print(f"\n{title:26}" + "".join(f"{verdict:>17.16}" for verdict in verdicts))
        found = Counter((getattr(row, key), row.verdict) for row in rows)
        for name in sorted({getattr(row, key) for row in rows}):
            print(f"{name:26}" + "".join(f"{found[name, verdict] or '·':>17}" for verdict in verdicts))
    print()
    report = common.Report("damaged checkpoints")
    counts = Counter(row.verdict for row in rows)
    report.add("cases", len(rows))
    for verdict in verdicts:
        report.add(verdict, counts[verdict], **({"most": 0} if verdict in FAILURES else {}))
    report.add("time of a case, median", common.median(row.seconds for row in rows), "s")
    report.save(out)
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
