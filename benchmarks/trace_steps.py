"""Traces ten steps of each family in its lane: idle time between kernels, launches, waits, and the longest kernels.

    python benchmarks/trace_steps.py --out trace.json                          all families, on a GPU
    python benchmarks/trace_steps.py --out trace.json --families flux chat     some of them
    python benchmarks/trace_steps.py --out trace.json --tiny                   tiny models, also without a GPU

Bar: within the steps no kernel runs at most 5 % of the time; nothing in them makes the host wait for the device, other
than the one copy of each step's tokens in chats. Pictures are traced with previews on, which must not wait either. A
profiler costs host time, so that the share of idle time is an upper bound; `without_profiler_step_ms` is without it.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (needs the path above)
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from benchmarks import kernel_trace  # noqa: E402
from benchmarks.compiled_sides import WARM_UPS, compile_lane  # noqa: E402
from benchmarks.gpu_results import Results, timed  # noqa: E402
from benchmarks.real_models import MODELS, build, denoiser, request  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from pipelines.chat.lane import ChatLane  # noqa: E402
from pipelines.chat_interface import ChatRequest  # noqa: E402
from pipelines.diffusion.lane import DiffusionLane  # noqa: E402
from pipelines.interface import Lane  # noqa: E402
from scripts import gpu_chats, gpu_dits  # noqa: E402
from server.process.libraries import stop_compilers  # noqa: E402
from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer  # noqa: E402
from tests.support.prompts import asked  # noqa: E402

STEPS, BEFORE, AFTER = 10, 3, 3  # steps that are traced, and steps of the job before and after them
IDLE_BAR = 0.05
WIDTHS = {"flux": 1, "sdxl": 4, "wan22": 1, "chat": 8}
MOST_TRACE_BYTES = 2 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every family")
    parser.add_argument("--families", nargs="+", choices=[*MODELS, "chat"], default=list(WIDTHS))
    parser.add_argument("--width", type=int, default=None, help="concurrent jobs (default: by family)")
    parser.add_argument("--compiled", action="store_true", help="also with compiled blocks")
    parser.add_argument("--traces", type=Path, default=None, help="folder for Chrome traces of at most 2 MiB each")
    parser.add_argument("--seconds", type=float, default=120.0, help="time limit (default: %(default)s)")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    arguments = parser.parse_args()

    device, tiny = arguments.device, arguments.tiny
    results = Results("trace of ten steps", arguments.out, device, seconds=arguments.seconds, tiny=tiny)
    for name in arguments.families:
        width = arguments.width or WIDTHS.get(name, 1)
        with results.part(name):
            results.check_time(0.0 if tiny else 10.0)
            lane = chat_lane(device, tiny=tiny) if name == "chat" else diffusion_lane(name, device, tiny=tiny)
            for mode in ("eager", "compiled") if arguments.compiled and name != "chat" else ("eager",):
                if mode == "compiled":
                    compile_lane(lane, denoiser(lane.pipeline))
                start = starter(name, lane, width, tiny=tiny)
                found = traced(lane, start, device, forwards_per_step(name, lane, start), arguments.traces)
                results.record(name, **{mode: {"width": width, **found}})
            lane.close()
            del lane, start
        gc.collect()
        device_module.release_cache()
    stop_compilers()


def diffusion_lane(name: str, device: str, *, tiny: bool) -> DiffusionLane:
    return DiffusionLane(build(name, device, tiny=tiny), kind=MODELS[name].kind, device_name=device)


def chat_lane(device: str, *, tiny: bool) -> ChatLane:
    """A lane of Llama-3.2-1B's shape."""
    if tiny:
        return ChatLane(tiny_model().to(device), tiny_tokenizer(), cache_bytes=4 << 20)
    model = gpu_dits.built(device, torch.bfloat16, gpu_chats.llama_3_2_1b)
    return ChatLane(model, tiny_tokenizer(), cache_bytes=2 << 30)


def starter(name: str, lane: Any, width: int, *, tiny: bool) -> Callable[[], None]:
    """Returns what admits `width` jobs that are long enough for a trace."""
    numbers = itertools.count()
    steps = BEFORE + STEPS + AFTER

    def start() -> None:
        for _ in range(width):
            job = f"{name} {next(numbers)}"
            if name == "chat":
                prompt = asked(lane.tokenizer, "hello")
                lane.admit(ChatRequest(id=job, prompt=prompt, max_tokens=8 * steps, temperature=0.8))
            else:
                lane.admit(replace(request(name, job, steps, tiny=tiny), preview=MODELS[name].kind == "image"))

    return start


def forwards_per_step(name: str, lane: Any, start: Callable[[], None]) -> int:
    """Runs the jobs to their end, until calls are proved to merge and compiled. Returns the forwards in a step."""
    forwards = 0
    for _ in range(WARM_UPS):
        forwards = 0
        start()
        while lane.has_work():
            next_step = lane.next_step()
            forwards += next_step is not None and next_step.stage == "denoising"
            lane.step()
    return 1 if name == "chat" else max(1, round(forwards / (BEFORE + STEPS + AFTER)))


def traced(lane: Lane, start: Callable[[], None], device: str, forwards: int, traces: Path | None) -> dict[str, Any]:
    """Runs the jobs twice more, and looks at ten steps in the middle of each: without a profiler, then with it."""
    plain_s = _middle(lane, start, device, forwards)
    activities = [ProfilerActivity.CUDA if device.startswith("cuda") else ProfilerActivity.CPU]
    with profile(activities=activities):  # the first profiler of a process takes long to start
        torch.ones(1, device=device)
    profiler = profile(activities=activities)
    seconds = _middle(lane, start, device, forwards, profiler)
    found = kernel_trace.summary(kernel_trace.read(profiler), STEPS)
    idle = found.get("idle_share", 1.0)
    facts = {
        "without_profiler_step_ms": round(1e3 * plain_s / STEPS, 3),
        "with_profiler_step_ms": round(1e3 * seconds / STEPS, 3),
        "forwards_per_step": forwards,
        "ok": idle <= IDLE_BAR,
        **found,
    }
    if traces is not None:
        facts["trace"] = _save(profiler, traces / f"{type(lane).__name__}-{id(lane)}.json")
    return facts


def _middle(lane: Lane, start: Callable[[], None], device: str, forwards: int, profiler: Any = None) -> float:
    """Runs the jobs to their end. Returns the seconds of the ten steps in their middle."""
    start()
    _advance(lane, BEFORE * forwards)
    device_module.finish(device)
    if profiler is not None:
        profiler.start()
    _, seconds = timed(device, lambda: _advance(lane, STEPS * forwards))
    if profiler is not None:
        profiler.stop()
    while lane.has_work():
        lane.step()
    lane.take_costs()
    return seconds


def _advance(lane: Lane, forwards: int) -> None:
    """Steps the lane until so many forwards of denoising or decoding of tokens have run."""
    while forwards and lane.has_work():
        next_step = lane.next_step()
        lane.step()
        forwards -= next_step is not None and next_step.stage in ("denoising", "decode")


def _save(profiler: Any, path: Path) -> str:
    """Writes the Chrome trace, compressed, unless it is large. Returns its name, or why there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
    packed = gzip.compress(path.read_bytes(), 6)
    path.unlink()
    if len(packed) > MOST_TRACE_BYTES:
        return f"left out: {len(packed) >> 10} KiB"
    packed_path = path.with_suffix(".json.gz")
    packed_path.write_bytes(packed)
    return packed_path.name


if __name__ == "__main__":
    main()
