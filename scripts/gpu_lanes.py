"""The parts of the device check that compare lanes with stock pipelines: equality, verdicts of merging, two times.

Pixels of merged half-precision forwards differ after some steps whatever the code does: a denoising loop amplifies the
rounding of its first step, and with random weights it does so without bounds. So jobs that run alone are held against
the stock pipeline pixel by pixel, and merged ones by what the denoiser gives them in their first step, relative to its
size, with the tolerance of the proof of merging.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import greenlet
import torch

from benchmarks.gpu_results import peak_bytes, reset_peak, timed
from benchmarks.real_models import denoiser
from pipelines import device as device_module
from pipelines.batching.proof import TOLERANCE
from pipelines.chat.lane import ChatLane
from pipelines.chat_interface import ChatRequest
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import Replied
from scripts import gpu_chats, gpu_dits, gpu_models
from tests.support.lanes.lane_play import direct, gap, rendered, request
from tests.support.lanes.stock_families import FAMILIES
from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer
from tests.support.prompts import asked

JOBS = (1, 4)
CHATS = (1, 8)

Record = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Check:
    """A family at a real size that leaves room for four jobs at once."""

    build: Callable[[], Any]
    width: int
    height: int
    num_frames: int | None = None
    steps: int = 4


CHECKS = {
    "sd15": Check(gpu_models.stable_diffusion, 512, 512),
    "sdxl": Check(gpu_models.stable_diffusion_xl, 1024, 1024),
    "sd3": Check(gpu_models.stable_diffusion_3, 1024, 1024),
    "flux": Check(functools.partial(gpu_dits.flux_1_dev, text_layers=1), 512, 512),
    "wan": Check(gpu_models.wan, 480, 272, num_frames=17),
}


def check_family(name: str, tiny: bool, device: str, record: Record) -> None:
    check, family = CHECKS[name], FAMILIES[name]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipeline, build_s = timed(
        device, lambda: family.build().to(device) if tiny else gpu_dits.built(device, dtype, check.build)
    )
    pipeline.set_progress_bar_config(disable=True)
    record(dtype=str(dtype).removeprefix("torch."), build_s=round(build_s, 2))
    size: dict[str, Any] = {"steps": 3 if tiny else check.steps}
    if not tiny:
        size |= {"width": check.width, "height": check.height, "num_frames": check.num_frames}
    make = functools.partial(request, family, **size)
    lane = DiffusionLane(pipeline, kind=family.kind, device_name=device)
    for work in (check_equality, check_times):
        try:
            work(pipeline, lane, make, device, record)
        except Exception as error:  # after out of memory in one check the other must run
            if device_module.is_fatal(error):
                raise
            record(**{f"{work.__name__}_error": f"{type(error).__name__}: {error}"[:1500]})
        device_module.release_cache()
    record(merging=lane.merging, verdicts=dict(lane.verdicts))
    lane.close()


def check_equality(pipeline: Any, lane: DiffusionLane, make: Any, device: str, record: Record) -> None:
    """Compares jobs alone, deterministic and in a mixed batch of four with direct calls of the stock pipeline."""
    four = [
        make("a", seed=1, prompt="a red circle"),
        make("b", seed=2, prompt="ocean waves", guidance_scale=5.5),
        make("c", seed=3, prompt="a city at night", steps=make("c").steps + 1),
        make("d", seed=4, prompt="a star"),
    ]
    expected = {}
    with FirstOutputs(denoiser(pipeline)) as stock:
        for job in four:
            stock.called_directly = job.id
            expected[job.id] = direct(pipeline, job)
    twice = gap(direct(pipeline, four[0]), expected["a"])  # two equal calls may differ on some devices
    alone = gap(rendered(lane, four[:1])["a"].frames, expected["a"])
    record(stock_twice_gap=twice, alone_gap=alone)
    rendered(lane, four)  # proves that the calls may be merged
    with FirstOutputs(denoiser(pipeline)) as merged:
        mixed = rendered(lane, four)
    pinned = gap(rendered(lane, [replace(four[0], deterministic=True), *four[1:]])["a"].frames, expected["a"])
    first_step = [relative_difference(merged.by_job[name], first) for name, first in stock.by_job.items()]
    tolerance = TOLERANCE[torch.float32 if device == "cpu" else torch.bfloat16]
    record(
        agrees=alone <= twice and pinned <= twice and max(first_step) <= tolerance,
        deterministic_gap=pinned,
        first_step_difference=max(first_step),
        tolerance=tolerance,
        mixed_gap=max(gap(mixed[name].frames, frames) for name, frames in expected.items()),
        batch_peaks=[mixed[name].batch_peak for name in expected],
    )


class FirstOutputs:
    """Keeps what a module first gives each job, by the job's id, within the context."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self.called_directly = ""  # the id of the job that stock code runs now
        self.by_job: dict[str, torch.Tensor] = {}

    def __enter__(self) -> FirstOutputs:
        self._handle = self._module.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, _: Any, args: Any, output: Any) -> None:
        job = getattr(greenlet.getcurrent(), "name", self.called_directly)  # each job of a lane runs in a greenlet
        if job not in self.by_job:
            self.by_job[job] = (output[0] if isinstance(output, tuple) else output.sample).detach().clone()


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    scale = other.abs().max().item()
    return float((one.float() - other.float()).abs().max().item() / max(scale, 1e-12))


def check_times(pipeline: Any, lane: DiffusionLane, make: Any, device: str, record: Record) -> None:
    """Compares concurrent jobs in the lane with direct calls one after another, once each."""
    direct(pipeline, make("warm"))
    _, one_s = timed(device, lambda: direct(pipeline, make("direct")))
    record(direct_s=round(one_s, 3))
    for n_jobs in JOBS:
        jobs = [make(f"job {i}", seed=i) for i in range(n_jobs)]
        rendered(lane, jobs)
        reset_peak(device)
        done, seconds = timed(device, functools.partial(rendered, lane, jobs))
        facts = {
            "seconds": round(seconds, 3),
            "times_direct": round(n_jobs * one_s / seconds, 3),  # above 1: faster than one after another
            "batch_peak": max(end.batch_peak for end in done.values()),
            "peak_bytes": peak_bytes(device),
        }
        record(**{f"jobs_{n_jobs}": facts})
    lane.take_costs()


def check_chat(tiny: bool, device: str, record: Record) -> None:
    """Whether a greedy reply is the same alone and among eight, and tokens a second of both."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = tiny_model().to(device) if tiny else gpu_dits.built(device, dtype, gpu_chats.llama_3_2_1b)
    lane = ChatLane(model, tiny_tokenizer(), cache_bytes=(4 << 20) if tiny else (4 << 30), max_running=max(CHATS))
    n_tokens = 8 if tiny else 64
    replies = {}
    for count in CHATS:
        reply_all(lane, count, n_tokens)
        done, seconds = timed(device, functools.partial(reply_all, lane, count, n_tokens))
        replies[count] = done["chat 0"].text
        tokens = sum(reply.completion_tokens for reply in done.values())
        record(**{f"chats_{count}": {"ended": len(done), "tokens_per_s": round(tokens / seconds, 1)}})
    # Rounding of bfloat16 may break a tie between tokens differently.
    record(alone_equals_among_8=replies[1] == replies[8], notes=list(lane.notes))
    lane.close()


def reply_all(lane: ChatLane, count: int, n_tokens: int) -> dict[str, Replied]:
    prompts = [asked(lane.tokenizer, f"{i}: what can you help me with?") for i in range(count)]
    for i, prompt in enumerate(prompts):
        lane.admit(ChatRequest(id=f"chat {i}", prompt=prompt, max_tokens=n_tokens))
    updates = []
    while lane.has_work():
        updates += lane.step()
    return {update.request_id: update for update in updates if isinstance(update, Replied)}
