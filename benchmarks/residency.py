"""Checks images, loads, memory ledger and time estimates while four models share a device that holds two of them.

    OMP_NUM_THREADS=1 python benchmarks/residency.py

Runs the real server on the CPU with a memory budget. The checkpoints are random and tiny except for an embedding table,
which takes memory and no time. Bars: every job gives the right image; at most 40 loads for 200 jobs; the ledger is
within 10 % of the growth of the process; the median error of the estimates is 25 % at submission and 10 % half way.
"""

from __future__ import annotations

import io
import json
import random
import re
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import common
import diffusers
import numpy as np
import torch
from diffusers import PixArtSigmaPipeline
from PIL import Image

from benchmarks.families import parts
from tests.support.http.live_server import LiveServer
from tests.support.lanes.stock_families import pixart_sigma

MODELS = ("amber", "birch", "cedar", "dune")
STEPS, SIDE = 100, 64  # 200 jobs take half a minute, and submitting them half a second
CALL = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": 32}
SAMPLE = 12  # images to compare with a direct call
POLL_S = 0.25
CONNECTIONS = 8


def make_models(data_dir: Path, mib: int) -> int:
    """Writes four checkpoints of about `mib` MiB each and their entries. Returns the bytes of one on the device."""
    lines, n_bytes = [], 0
    for seed, name in enumerate(MODELS):
        pipeline = pixart_sigma()
        torch.manual_seed(seed)
        pipeline.text_encoder = parts.t5_text(vocab_size=(mib << 20) // (4 * parts.TEXT_DIM)).eval()
        # Saved in half precision and served in float32: the weights are then memory of the process, not mapped pages.
        pipeline.to(torch.bfloat16).save_pretrained(data_dir / "checkpoints" / name)
        n_bytes = 2 * sum(p.stat().st_size for p in (data_dir / "checkpoints" / name).rglob("*.safetensors"))
        call = "\n".join(f"{key} = {json.dumps(value)}" for key, value in CALL.items())
        lines.append(f'[models.{name}]\ntype = "image"\nsource = "checkpoints/{name}"\n[models.{name}.call]\n{call}\n')
    (data_dir / "models.toml").write_text("\n".join(lines))
    return n_bytes


@dataclass
class Watched:
    """One job and its time estimates."""

    id: str
    body: dict[str, Any]
    etas: list[tuple[float, float]] = field(default_factory=list)  # (when requested, estimated seconds left)
    end: dict[str, Any] = field(default_factory=dict)
    ended_at: float = 0.0

    def error_at(self, share: float, since: float) -> float | None:
        """Returns |estimate − actual| / actual at this share of the time from `since` to the end. None: no estimate."""
        life = self.ended_at - since
        at = since + share * life
        requested_at, estimate = min(self.etas, key=lambda eta: abs(eta[0] - at), default=(0.0, 0.0))
        left = self.ended_at - requested_at
        if life <= 0 or not self.etas or abs(requested_at - at) > 0.15 * life + POLL_S or left <= 0:
            return None
        return abs(estimate - left) / left


def warm_up(live: LiveServer) -> None:
    """Runs each model with one job and with a full batch, because estimates come from measured times."""
    for name in MODELS:
        for together in (1, 8):
            body = {"type": "image", "prompt": "x", "model": name, "width": SIDE, "height": SIDE, "steps": STEPS}
            for job_id in [live.submit(**body) for _ in range(together)]:
                live.wait(job_id)


def submit_all(live: LiveServer, count: int, jobs: list[Watched], seed: int = 5) -> float:
    """Submits jobs over several connections at once and adds them to `jobs`. Returns when the last was accepted."""
    rng = random.Random(seed)
    bodies = [
        {"type": "image", "prompt": rng.choice(common.PROMPTS), "model": rng.choice(MODELS), "width": SIDE,
         "height": SIDE, "steps": STEPS, "seed": number}
        for number in range(count)
    ]  # fmt: skip

    def submit(body: dict[str, Any]) -> None:
        jobs.append(Watched(live.submit(**body), body))

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(submit, bodies))
    return time.monotonic()


def watch(live: LiveServer, jobs: list[Watched], submitting: Future[float], samples: list[tuple[int, int]]) -> None:
    """Records estimates and (booked bytes, resident bytes of the process) until all jobs have ended."""
    going = True
    while going:
        going = not submitting.done()
        by_id = {job.id: job for job in list(jobs)}
        for status in ("queued", "processing"):
            for listed_job in listed(live, status):
                going = True
                job_id, eta_s = listed_job["jobId"], listed_job["etaSeconds"]
                if job_id in by_id and eta_s is not None:
                    by_id[job_id].etas.append((time.monotonic(), eta_s))
        for device in live.get("/api/gpu").json["devices"]:  # empty until the engine's first snapshot
            assert sum(holder["bytes"] for holder in device["holders"]) == device["used"]
            assert device["used"] <= device["total"]
            samples.append((device["used"], resident_bytes(live)))
        time.sleep(POLL_S)
    by_id, now = {job.id: job for job in jobs}, time.monotonic() - time.time()
    for end in [*listed(live, "completed"), *listed(live, "failed")]:
        if (job := by_id.get(end["jobId"])) is not None:
            job.end, job.ended_at = end, now + seconds_of(end["finishedAt"])


def listed(live: LiveServer, status: str) -> Iterable[dict[str, Any]]:
    cursor = ""
    while True:
        page = live.get(f"/api/jobs?status={status}&limit=100{cursor}").json
        yield from page["jobs"]
        if page["nextCursor"] is None:
            return
        cursor = f"&cursor={page['nextCursor']}"


def seconds_of(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def resident_bytes(live: LiveServer) -> int:
    status = Path(f"/proc/{live.server_pid()}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]  # Linux always has it


def difference(live: LiveServer, data_dir: Path, job: Watched) -> int:
    """Returns the largest difference, in steps of 8 bits, between a job's image and a direct call of the library."""
    pipeline = PixArtSigmaPipeline.from_pretrained(data_dir / "checkpoints" / job.body["model"], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(job.body["seed"])
    call = {key: job.body[key] for key in ("prompt", "width", "height")}
    direct = pipeline(**call, **CALL, num_inference_steps=STEPS, generator=generator).images[0]
    served = Image.open(io.BytesIO(live.fetch(job.end["outputs"][0]["url"]).body))
    return int(np.abs(np.asarray(direct).astype(int) - np.asarray(served).astype(int)).max())


def loads(live: LiveServer) -> int:
    live.log.flush()
    return Path(live.log.name).read_text().count('"msg": "model loaded"')


def start(data_dir: Path, model_bytes: int, **env: str) -> LiveServer:
    """Starts a server with memory for two models and the activations of their steps, but not for three."""
    settings = {"AGENTNAME_MEMORY_BUDGET": str(int(2.6 * model_bytes)), "AGENTNAME_MEMORY_RESERVE": "0"}
    return LiveServer(data_dir, env=settings | {"AGENTNAME_TORCH_THREADS": "1"} | env).start()


def main() -> None:
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    arguments = common.arguments(
        __doc__ or "",
        ("--jobs", {"type": int, "default": 200, "help": "default: 200"}),
        ("--mib", {"type": int, "default": 160, "help": "size of a checkpoint (default: 160)"}),
    )
    report = common.Report("residency: four models where two fit")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        data_dir.mkdir()
        live = start(data_dir, make_models(data_dir, arguments.mib))
        try:
            measure(report, live, data_dir, arguments.jobs)
        finally:
            live.stop()
    report.save(arguments.json)


def measure(report: common.Report, live: LiveServer, data_dir: Path, count: int) -> None:
    warm_up(live)
    before = loads(live)
    samples: list[tuple[int, int]] = []  # filled by `watch`
    used, rss = live.get("/api/gpu").json["devices"][0]["used"], resident_bytes(live)
    for name in MODELS:
        live.post(f"/api/models/{name}/unload", {})
    while live.get("/api/gpu").json["devices"][0]["used"]:
        time.sleep(POLL_S)
    empty = resident_bytes(live)
    report.add(
        "ledger against the process, two models in memory", abs(used / max(1, rss - empty) - 1) * 100, "%", most=10
    )
    began = time.monotonic()
    jobs: list[Watched] = []
    with ThreadPoolExecutor(1) as pool:  # so that submitting and watching do not wait for each other
        submitting = pool.submit(submit_all, live, count, jobs)
        watch(live, jobs, submitting, samples)
        all_in = submitting.result()  # estimates before it cannot know the jobs after them
    report.add("jobs", count)
    report.add("jobs per second", count / (time.monotonic() - began), "/s")
    failed = [job.end["error"]["code"] for job in jobs if job.end["status"] != "completed"]
    report.add("jobs that failed", len(failed), most=0)
    report.add("of those out of memory", failed.count("out_of_memory"), most=0)
    sample = random.Random(1).sample([job for job in jobs if job.end["status"] == "completed"], min(SAMPLE, count))
    report.add(
        "pictures compared, largest difference", max(difference(live, data_dir, job) for job in sample), "/255", most=1
    )
    report.add("loads", loads(live) - before, most=max(4, count // 5))
    report.add("most bytes in the ledger", max(used for used, _ in samples) / 2**20, "MiB")
    off = [abs(used / max(1, rss - empty) - 1) * 100 for used, rss in samples if used]
    report.add("ledger against the process while jobs ran, median", common.median(off) if off else 0.0, "%", most=10)
    for share, what, bar in ((0.0, "at submission", 25), (0.5, "half way", 10)):
        errors = [error for job in jobs if (error := job.error_at(share, all_in)) is not None]
        report.add(f"estimates {what}", len(errors))
        if errors:
            report.add(f"error of estimates {what}, median", common.median(errors) * 100, "%", most=bar)


if __name__ == "__main__":
    main()
