"""Checks the lanes on this device at real model sizes: equality, batching, throughput, memory, preemption, switching.

    python scripts/gpu_check.py --out gpu.json            under ten minutes on one large GPU; downloads nothing
    python scripts/gpu_check.py --out tiny.json --tiny    tiny models, also without a GPU; half a minute on a CPU

The models have their real size and random weights, built on the device from their configurations. Text encoders of
billions of weights are cut to one layer of their width, because the denoiser is what is measured. Each part runs in its
own process under a time limit and writes its results as it goes, so that a failure loses no results of other parts.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (needs the path above)

from pipelines import device as device_module  # noqa: E402
from pipelines.chat_interface import ChatRequest  # noqa: E402
from pipelines.diffusion.lane import DiffusionLane  # noqa: E402
from pipelines.interface import DiffusionRequest, Replied, StepCost  # noqa: E402
from scripts import gpu_memory, gpu_models, gpu_switching  # noqa: E402
from tests.support.lanes.lane_play import direct, gap, rendered, request  # noqa: E402
from tests.support.lanes.stock_families import FAMILIES  # noqa: E402
from tests.support.prompts import asked  # noqa: E402

PART_S = 105.0  # limit of a part, which takes half of it or less: nine parts and their starts take under ten minutes
JOBS = (1, 4, 8)
CHATS = (1, 8, 32)
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of pixels in [0, 1]; random weights amplify half-precision rounding

Record = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    family: str  # key in tests/support/lanes/stock_families.py: shape of a request, and the model for --tiny
    build: Callable[[], Any] | None  # builds the model at real size; None for parts that check something else
    width: int = 0
    height: int = 0
    num_frames: int | None = None
    steps: int = 6


PARTS = (
    Part("sd15", "sd15", gpu_models.stable_diffusion, 512, 512),
    Part("sdxl", "sdxl", gpu_models.stable_diffusion_xl, 1024, 1024),
    Part("sd3", "sd3", gpu_models.stable_diffusion_3, 1024, 1024),
    Part("flux", "flux", gpu_models.flux, 512, 512, steps=4),
    Part("wan", "wan", gpu_models.wan, 480, 272, num_frames=17, steps=4),
    Part("llama", "", None),
    Part("memory", "", None),
    Part("latency", "", None),
    Part("switching", "", None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="check tiny models, all in this process")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument(
        "--part-seconds", type=float, default=PART_S, help="time limit of a part (default: %(default)s)"
    )
    parser.add_argument("--in-this-process", action="store_true", help="do not start a process for each part")
    arguments = parser.parse_args()

    if arguments.tiny:
        torch.set_num_threads(1)  # models this small are slower with two
    found: dict[str, Any] = {
        "device": device_module.name(arguments.device),
        "torch": torch.__version__,
        "tiny": arguments.tiny,
        "parts": {},
    }
    for part in (part for part in PARTS if part.name in arguments.parts):
        print(f"== {part.name}", flush=True)
        if arguments.tiny or arguments.in_this_process:
            found["parts"][part.name] = run_part(part, arguments.tiny, arguments.device, arguments.out, found)
        else:
            found["parts"][part.name] = run_in_child(part, arguments.device, arguments.part_seconds)
        save(arguments.out, found)
    print(f"wrote {arguments.out}")


def run_in_child(part: Part, device: str, limit_s: float) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        command = [sys.executable, __file__, "--out", str(out), "--parts", part.name, "--device", device]
        began = time.perf_counter()
        try:
            code = subprocess.run([*command, "--in-this-process"], timeout=limit_s, check=False).returncode
            ended = {} if code == 0 else {"error": f"the process ended with code {code}"}
        except subprocess.TimeoutExpired:
            ended = {"error": f"stopped after {limit_s:.0f} s"}
        kept = json.loads(out.read_text())["parts"][part.name] if out.exists() else {}
    return {**kept, **ended, "wall_s": round(time.perf_counter() - began, 1)}


def run_part(part: Part, tiny: bool, device: str, out: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Returns the results of the part. Also writes them to `out` whenever there is a new one."""
    results: dict[str, Any] = {}

    def record(**facts: Any) -> None:
        results.update(facts)
        print("  ", json.dumps(facts), flush=True)
        save(out, {**found, "parts": {**found["parts"], part.name: results}})

    try:
        match part.name:
            case "memory":
                gpu_memory.check_memory(tiny, device, record)
            case "latency":
                gpu_memory.check_latency(tiny, device, record)
            case "switching":
                gpu_switching.check_switching(tiny, device, record)
            case "llama":
                check_chat(tiny, device, record)
            case _:
                check_diffusion(part, tiny, device, record)
    except Exception as error:  # noqa: BLE001  # the other parts must run; the file records the error
        record(error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc()[-3000:])
    gc.collect()
    device_module.release_cache()
    return results


def save(out: Path, found: dict[str, Any]) -> None:
    out.write_text(json.dumps(found, indent=1))


# Diffusion


def check_diffusion(part: Part, tiny: bool, device: str, record: Record) -> None:
    family = FAMILIES[part.family]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipeline, build_s = timed(device, lambda: family.build() if tiny else gpu_models.on(device, dtype, part.build))
    pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    record(
        dtype=str(dtype).removeprefix("torch."),
        weights=sum(parameter.numel() for module in modules for parameter in module.parameters()),
        build_s=round(build_s, 2),
    )
    size: dict[str, Any] = {"steps": 3 if tiny else part.steps}
    if not tiny:
        size |= {"width": part.width, "height": part.height, "num_frames": part.num_frames}
    make = functools.partial(request, family, **size)
    lane = DiffusionLane(pipeline, kind=family.kind, device_name=device)

    for check in (check_equality, check_throughput):
        try:
            check(pipeline, lane, make, device, record)
        except Exception as error:  # noqa: BLE001  # after out of memory in one check the other must run
            record(**{f"{check.__name__}_error": f"{type(error).__name__}: {error}"})
        device_module.release_cache()
    record(merging=lane.merging, verdicts=verdicts(lane))


def check_equality(pipeline: Any, lane: DiffusionLane, make: Any, device: str, record: Record) -> None:
    """Compares jobs alone, deterministic and in a mixed batch of four with direct calls of the stock pipeline."""
    four = [
        make("a", seed=1, prompt="a red circle"),
        make("b", seed=2, prompt="ocean waves", guidance_scale=5.5),
        make("c", seed=3, prompt="a city at night", steps=make("c").steps + 1),
        make("d", seed=4, prompt="a star"),
    ]
    expected = {job.id: direct(pipeline, job) for job in four}
    again = gap(direct(pipeline, four[0]), expected["a"])
    alone = rendered(lane, four[:1])["a"]
    proving, mixed = rendered(lane, four), rendered(lane, four)
    pinned = rendered(lane, [replace(four[0], deterministic=True), *four[1:]])["a"]
    allowed = TOLERANCE["float32" if device == "cpu" else "bfloat16"]
    mixed_gap = max(gap(mixed[name].frames, frames) for name, frames in expected.items())
    record(
        agrees=gap(alone.frames, expected["a"]) <= again and mixed_gap <= allowed,
        stock_twice_gap=again,  # two equal calls of the stock pipeline may differ on some devices
        alone_gap=gap(alone.frames, expected["a"]),
        deterministic_gap=gap(pinned.frames, expected["a"]),
        mixed_gap=mixed_gap,
        proving_gap=max(gap(proving[name].frames, frames) for name, frames in expected.items()),
        same_mix_twice_gap=gap(mixed["a"].frames, rendered(lane, four)["a"].frames),
        batch_peaks=[mixed[name].batch_peak for name in expected],
    )


def check_throughput(pipeline: Any, lane: DiffusionLane, make: Any, device: str, record: Record) -> None:
    """Compares concurrent jobs in the lane with direct calls one after another, after a warm-up of each."""
    job = make("warm")
    direct(pipeline, job)
    _, one_s = timed(device, lambda: direct(pipeline, job))
    record(direct_s=round(one_s, 3))
    for n_jobs in JOBS:
        jobs: list[DiffusionRequest] = [make(f"job {i}", seed=i) for i in range(n_jobs)]
        rendered(lane, jobs)
        lane.take_costs()
        reset_peak(device)
        done, seconds = timed(device, functools.partial(rendered, lane, jobs))
        steps = [cost.seconds for cost in lane.take_costs() if isinstance(cost, StepCost) and cost.stage == "denoising"]
        record(
            **{
                f"jobs_{n_jobs}": {
                    "seconds": round(seconds, 3),
                    "times_direct": round(n_jobs * one_s / seconds, 3),  # above 1: faster than one after another
                    "median_forward_s": round(statistics.median(steps), 4),
                    "batch_peak": max(end.batch_peak for end in done.values()),
                    "peak_bytes": peak_bytes(device),
                }
            }
        )


def verdicts(lane: DiffusionLane) -> list[dict[str, Any]]:
    return [{"call": call, "merges": merges} for call, merges in lane.verdicts.items()]


# Chat


def check_chat(tiny: bool, device: str, record: Record) -> None:
    from pipelines.chat.lane import ChatLane
    from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = (tiny_model() if tiny else gpu_models.on(device, dtype, gpu_models.llama_1b)).to(device)
    tokenizer = tiny_tokenizer()
    lane = ChatLane(model, tokenizer, cache_bytes=(4 << 20) if tiny else (4 << 30), max_running=max(CHATS))
    record(weights=sum(p.numel() for p in model.parameters()), dtype=str(dtype).removeprefix("torch."))
    n_tokens = 8 if tiny else 128

    def chats(count: int) -> list[ChatRequest]:
        prompts = [asked(lane.tokenizer, f"{i}: what can you help me with?") for i in range(count)]
        return [ChatRequest(id=f"chat {i}", prompt=prompts[i], max_tokens=n_tokens) for i in range(count)]

    def reply_all(requests: list[ChatRequest]) -> dict[str, Replied]:
        for each in requests:
            lane.admit(each)
        updates = []
        while lane.has_work():
            updates += lane.step()
        return {update.request_id: update for update in updates if isinstance(update, Replied)}

    alone, batched = reply_all(chats(1))["chat 0"].text, reply_all(chats(8))["chat 0"].text
    record(alone_equals_among_8=alone == batched)  # bfloat16 rounding may break a tie between tokens differently
    one_s = 0.0
    for count in CHATS:
        reply_all(chats(count))
        reset_peak(device)
        done, seconds = timed(device, functools.partial(reply_all, chats(count)))
        one_s = one_s or seconds
        tokens = sum(reply.completion_tokens for reply in done.values())
        record(
            **{
                f"chats_{count}": {
                    "ended": len(done),
                    "tokens_per_s": round(tokens / seconds, 1),
                    "times_one_by_one": round(count * one_s / seconds, 2),
                    "peak_bytes": peak_bytes(device),
                }
            }
        )
    lane.close()


# The device


def timed(device: str, work: Callable[[], Any]) -> tuple[Any, float]:
    synchronize(device)
    began = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - began


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None


if __name__ == "__main__":
    main()
