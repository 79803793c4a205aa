"""Is what the server gives what the library gives, for every pipeline class and architecture that can be built offline?

    python benchmarks/conformance.py --write docs/models.md
    python benchmarks/conformance.py --only FluxPipeline WanPipeline
    python benchmarks/conformance.py --lane        (no server: lanes in this process, unrounded)

Tiny random checkpoints are saved with `save_pretrained`, put into a running server's models, asked for over HTTP, several
jobs at once with different prompts, seeds, steps and sizes, and each result is compared with the library's own, loaded from the
same folder in this process, at the parameters the server returned. Pictures travel as PNG and clips as the PNGs of their
frames, so what is compared are levels of 0 … 255: two levels apart is a difference (`pipelines` tests compare unrounded values).
"""

from __future__ import annotations

import io
import math
import multiprocessing
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from conformance_chat import compare_chats
from conformance_lane import compare_in_lane
from numpy.typing import NDArray
from PIL import Image

from benchmarks.families import FAMILIES, Family
from benchmarks.families.unserved import REASONS
from models.loading import quiet_libraries
from models.pipeline_source import pipeline_source, text_pipelines
from pipelines.diffusion import FRAMES_ARGUMENTS
from tests.live_server import LiveServer

SAME_VALUES = 1e-3  # unrounded, of [0, 1]: rounding spread by a few steps of random weights
SAME_LEVELS = 1  # of 255; a value that lies on an edge may round either way
PROMPTS = ("a red circle", "ocean waves at sunset, wide", "a city", "a green star on the left")
MARK = "<!-- {} of generated table -->"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    kind: str
    levels: int | None  # largest difference; None: a job failed
    batch_peak: int  # of the jobs that ran together
    merging: str
    note: str = ""

    @property
    def equal(self) -> bool:
        return self.levels is not None and self.levels <= SAME_LEVELS


def main() -> None:
    arguments = common.arguments(
        __doc__,
        ("--only", {"nargs": "+", "default": None, "metavar": "NAME", "help": "classes or architectures to try"}),
        ("--lane", {"action": "store_true", "help": "without HTTP: unrounded values of lanes in this process"}),
        ("--write", {"type": Path, "default": None, "metavar": "FILE", "help": "put the tables into this document"}),
    )
    quiet_libraries()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # networks this small lose time to a second
    torch.set_grad_enabled(False)
    report = common.Report("conformance")
    chosen = [family for family in FAMILIES.values() if arguments.only is None or family.name in arguments.only]
    if arguments.lane:
        rows = compare_lanes([family.name for family in chosen])
    else:
        rows = [row for some in _batches(chosen, 24) for row in compare_families(some)]
    chats = compare_chats(arguments.only)
    unlisted = {name for name, _ in text_pipelines()} - FAMILIES.keys() - REASONS.keys()
    report.add("pipeline classes tried", len(rows))
    report.add("equal to the library", sum(row.equal for row in rows), least=45)
    report.add("of these, merging", sum(row.equal and row.merging == "on" for row in rows), least=40)
    report.add("classes without a reason for being left out", len(unlisted), most=0)
    report.add("architectures equal to generate", sum(chat.equal for chat in chats), least=20)
    report.save(arguments.json)
    for row in rows:
        if not row.equal:
            print(f"NOT EQUAL: {row.name}: {row.levels} levels {row.note}")
    if arguments.write is not None:
        write_tables(arguments.write, {"pipelines": _pipeline_table(rows), "chat": _chat_table(chats)})


def compare_lanes(names: list[str]) -> list[Row]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.map(compare_in_lane, names)
        return [_show(_row_of_lane(*each)) for each in found]


def _row_of_lane(name: str, kind: str, gap: float | None, peak: int, merging: str, note: str) -> Row:
    levels = None if gap is None else 0 if gap <= SAME_VALUES else math.ceil(gap * 255) + SAME_LEVELS
    return Row(name, kind, levels, peak, merging, note)


def compare_families(families: list[Family]) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = Path(scratch) / "data"
        (data_dir / "models").mkdir(parents=True)
        entries = [_save(family, data_dir / "models" / _slug(family.name)) for family in families]
        (data_dir / "models.toml").write_text("\n".join(entries))
        live = LiveServer(data_dir, env={"OMP_NUM_THREADS": "1"}).start()
        try:
            return [_show(compare(live, family, data_dir / "models" / _slug(family.name))) for family in families]
        finally:
            live.stop()


def compare(live: LiveServer, family: Family, folder: Path) -> Row:
    """Two rounds of jobs: merging is proved on results that ran alone, in the first."""
    bodies = [_body(family, i) for i in range(len(PROMPTS[: family.jobs]))]
    ended: list[dict[str, Any]] = []
    failed: dict[str, Any] | None = None
    for _ in range(2):
        if failed is None:
            replies = [live.post("/api/generate", body) for body in bodies]
            ended = [live.wait(reply.json["jobId"], 600.0) for reply in replies if reply.status == 200]
            refused = [{"error": {"message": reply.json["error"]}} for reply in replies if reply.status != 200]
            failed = next((end for end in ended if end["status"] != "completed"), (refused or [None])[0])
    merging = next(m["merging"] for m in live.get("/api/models").json["models"] if m["name"] == _slug(family.name))
    if failed is not None:
        return Row(family.name, family.kind, None, 0, merging, failed["error"]["message"])
    pipeline = _loaded(folder, family.name)
    levels = 0
    for body, status in zip(bodies, ended, strict=True):
        served = _pixels(live.fetch(status["outputs"][0]["url"]).body, family.kind)
        expected = _direct(pipeline, family, body, status["params"])
        levels = max(levels, int(np.abs(served.astype(int) - expected.astype(int)).max()))
    return Row(family.name, family.kind, levels, min(status["metrics"]["batchPeak"] for status in ended), merging)


def _body(family: Family, i: int) -> dict[str, Any]:
    """The i-th job: another prompt, seed, number of steps, and in the last another size."""
    source = pipeline_source(family.name)
    assert source is not None
    body: dict[str, Any] = {
        "type": family.kind,
        "model": _slug(family.name),
        "prompt": PROMPTS[i],
        "seed": 1000 + i,
        "steps": family.steps[i % len(family.steps)],
        "width": family.other_size if i == len(PROMPTS) - 1 else family.size,
        "height": family.size,
        "output_format": "png" if family.kind == "image" else "frames",
    }
    if "guidance_scale" in source.arguments:
        body["guidance_scale"] = (3.0, 5.5, 4.0, 7.0)[i]
    if "negative_prompt" in source.arguments:
        body["negative_prompt"] = "blurred"
    if family.num_frames is not None:
        body["num_frames"] = family.num_frames
    return body


def _direct(pipeline: Any, family: Family, body: Mapping[str, Any], params: Mapping[str, Any]) -> NDArray[np.uint8]:
    source = pipeline_source(family.name)
    assert source is not None
    frames_argument = next((name for name in FRAMES_ARGUMENTS if name in source.arguments), "num_frames")
    wanted = {
        "prompt": body["prompt"],
        "negative_prompt": body.get("negative_prompt"),
        "width": params["width"],
        "height": params["height"],
        "num_inference_steps": params["steps"],
        "guidance_scale": body.get("guidance_scale"),
        frames_argument: params.get("numFrames"),
        **family.call,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    generator = torch.Generator("cpu").manual_seed(params["seed"])
    media = pipeline(**given, generator=generator, output_type="np")[0][0]
    frames = np.asarray(media if family.kind == "video" else media[None], dtype=np.float32)
    return np.rint(np.clip(frames, 0.0, 1.0) * 255.0).astype(np.uint8)


def _loaded(folder: Path, name: str) -> Any:
    import diffusers

    pipeline = getattr(diffusers, name).from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pixels(file: bytes, kind: str) -> NDArray[np.uint8]:
    """(F, H, W, 3) of a PNG, or of a zip of PNGs."""
    if kind == "image":
        return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))[None]
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        pictures = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return np.stack([np.asarray(Image.open(archive.open(name)).convert("RGB")) for name in pictures])


def _save(family: Family, folder: Path) -> str:
    """The checkpoint's folder, and what models.toml says of it."""
    family.build().save_pretrained(folder)
    name = _slug(family.name)
    lines = [f"[models.{name}]", f'source = "{folder}"']
    if family.call:
        lines += [f"[models.{name}.call]", *(f"{key} = {_toml(value)}" for key, value in family.call.items())]
    return "\n".join(lines)


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_toml(inner) for inner in value) + "]"
        case _:
            return str(value)


def _slug(name: str) -> str:
    return name.removesuffix("Pipeline").lower()


def _batches(families: list[Family], size: int) -> Iterable[list[Family]]:
    return (families[start : start + size] for start in range(0, len(families), size))


def _show(row: Row) -> Row:
    verdict = "equal" if row.equal else "DIFFERS"
    print(f"{row.name:40} {verdict} {row.levels} levels, merging {row.merging}, batch {row.batch_peak} {row.note}", flush=True)  # fmt: skip
    return row


# The document


def _pipeline_table(rows: list[Row]) -> list[str]:
    equal, merging = [row for row in rows if row.equal], [row for row in rows if row.equal and row.merging == "on"]
    lines = [
        f"{len(equal)} pipeline classes give what diffusers gives, {len(merging)} of them with merged forwards.",
        "",
        "| pipeline class | makes | same as diffusers | jobs share forwards | |",
        "|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in sorted(rows, key=lambda row: row.name)]
    lines += ["", "Not in the proof:", "", "| pipeline class | reason |", "|---|---|"]
    return lines + [f"| {name} | {reason} |" for name, reason in sorted(REASONS.items())]


def _line(row: Row) -> str:
    shared = "yes" if row.merging == "on" else "no: they take turns"
    return f"| {row.name} | {row.kind} | {'yes' if row.equal else 'no'} | {shared} | {row.note} |"


def _chat_table(chats: list[Any]) -> list[str]:
    lines = [
        f"{sum(chat.equal for chat in chats)} architectures give the tokens of `generate`, alone and among others.",
        "",
        "| architecture | same as generate | lane |",
        "|---|---|---|",
    ]
    return lines + [f"| {chat.name} | {'yes' if chat.equal else 'no'} | {chat.lane} |" for chat in chats]


def write_tables(document: Path, tables: Mapping[str, list[str]]) -> None:
    """Put each table between its marks, at the end of the document where there are none yet."""
    text = document.read_text() if document.exists() else "# Models\n"
    for name, lines in tables.items():
        start, end = MARK.format(f"start of {name}"), MARK.format(f"end of {name}")
        body = "\n".join([start, "", *lines, "", end])
        if start in text:
            before, rest = text.split(start, 1)
            text = before + body + rest.split(end, 1)[1]
        else:
            text = f"{text.rstrip()}\n\n{body}\n"
    document.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
