"""Jobs of `balanced` and `fast` in the lane: each gets what it gets alone, and none changes a job beside it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from benchmarks.families import FAMILIES as ALL
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.stock_call import NO_STEP_SKIPPED, TOO_FEW_STEPS
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Canceled, Rendered, Update
from pipelines.step_schedule import Speed, computed_steps
from tests.support.lanes.lane_play import direct, ends, gap, play, rendered, request
from tests.support.lanes.stock_families import FAMILIES, Family
from tests.support.paths import ROOT

MERGED = 1e-3  # of merged forwards: the rounding of one step is carried on by the trend

# With a `cache_context` and without, guided in one call and in two, with one tensor and with a list of them.
CACHED = {
    "flux": FAMILIES["flux"],
    "sd3": FAMILIES["sd3"],
    "wan": FAMILIES["wan"],
    "z-image": ALL["ZImagePipeline"],
    "klein": ALL["Flux2KleinPipeline"],
    "sdxl": FAMILIES["sdxl"],
}
QUICK = ("flux",)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@functools.cache
def built(name: str) -> Any:
    return CACHED[name].build()


@pytest.fixture(params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CACHED])
def each(request: pytest.FixtureRequest) -> tuple[Family, Any]:
    return CACHED[request.param], built(request.param)


@pytest.fixture
def flux() -> tuple[Family, Any]:
    return CACHED["flux"], built("flux")


def four(family: Family) -> list[DiffusionRequest]:
    """Jobs that differ in prompt, seed, steps and speed; `exact` is one of them."""
    ask = functools.partial(request, family)
    return [
        ask("balanced", prompt="a red circle", seed=1, steps=14, speed="balanced"),
        ask("fast", prompt="ocean waves at sunset", seed=2, steps=13, speed="fast"),
        ask("exact", prompt="a city", seed=3, steps=6),
        ask("longer", prompt="a green star", seed=4, steps=16, speed="balanced", guidance_scale=6.0),
    ]


def test_unmerged_each_job_gets_the_very_bits_that_it_gets_alone_whoever_runs_beside(each: tuple[Family, Any]) -> None:
    family, pipeline = each
    jobs = four(family)
    lane = DiffusionLane(pipeline, kind=family.kind, merging="off")

    alone = {job.id: rendered(lane, [job])[job.id].frames for job in jobs}
    together = rendered(lane, jobs)
    lane.close()

    assert {name: gap(end.frames, alone[name]) for name, end in together.items()} == dict.fromkeys(alone, 0.0)
    assert gap(alone["exact"], direct(pipeline, jobs[2])) == 0.0


def test_merged_each_job_gets_what_it_gets_alone_but_for_rounding(each: tuple[Family, Any]) -> None:
    family, pipeline = each
    jobs = four(family)
    lane = DiffusionLane(pipeline, kind=family.kind)

    alone = {job.id: rendered(lane, [job])[job.id].frames for job in jobs}
    rendered(lane, jobs)  # proves that calls merge
    together = rendered(lane, jobs)
    lane.close()

    assert max(gap(end.frames, alone[name]) for name, end in together.items()) < MERGED


def test_the_denoiser_runs_for_the_computed_steps_only_and_the_client_sees_all_of_them(
    flux: tuple[Family, Any],
) -> None:
    family, pipeline = flux
    lane = DiffusionLane(pipeline, kind=family.kind)
    lane.admit(request(family, "1", steps=14, speed="balanced"))
    forwards, updates = 0, []
    while lane.has_work():
        step = lane.next_step()
        forwards += step is not None and step.component == "transformer"
        updates += lane.step()
    lane.close()

    assert forwards == computed_steps("balanced", 14)
    shown = [update.step for update in updates if getattr(update, "stage", "") in ("denoising", "decoding")]
    assert shown == list(range(15))
    assert isinstance(end := ends(updates)["1"], Rendered)
    assert end.warnings == ()


def test_a_speed_changes_the_picture_and_the_exact_one_is_that_of_the_stock_call(flux: tuple[Family, Any]) -> None:
    family, pipeline = flux
    exact, fast = (request(family, speed, steps=16, speed=speed) for speed in ("exact", "fast"))
    lane = DiffusionLane(pipeline, kind=family.kind)

    ended = rendered(lane, [exact]) | rendered(lane, [fast])
    lane.close()

    assert gap(ended["exact"].frames, direct(pipeline, exact)) == 0.0
    assert gap(ended["fast"].frames, ended["exact"].frames) > 0.0


def test_a_preempted_job_gets_the_same_bits(flux: tuple[Family, Any]) -> None:
    family, pipeline = flux
    jobs = four(family)[:2]
    lane = DiffusionLane(pipeline, kind=family.kind, merging="off")
    expected = rendered(lane, jobs)
    for job in jobs:
        lane.admit(job)
    updates: list[Update] = []
    was_preempted = False
    while lane.has_work():
        updates += lane.step(should_yield=lambda: True)
        was_preempted |= lane.mid_forward
    lane.close()

    assert was_preempted
    got = ends(updates)
    assert [gap(got[job.id].frames, expected[job.id].frames) for job in jobs] == [0.0, 0.0]  # type: ignore[union-attr]


def test_a_cancel_in_the_middle_leaves_nothing_to_the_jobs_beside_and_after(flux: tuple[Family, Any]) -> None:
    family, pipeline = flux
    jobs = four(family)[:2]
    lane = DiffusionLane(pipeline, kind=family.kind, merging="off")
    expected = rendered(lane, jobs)
    canceled = request(family, "canceled", prompt="another", seed=9, steps=30, speed="balanced")

    lane.admit(canceled)
    for _ in range(12):  # past its first predicted steps
        lane.step()
    for job in jobs:
        lane.admit(job)
    lane.step(should_yield=lambda: True)
    lane.cancel("canceled")
    beside = ends(play(lane))
    after = rendered(lane, jobs)
    lane.close()

    assert isinstance(beside.pop("canceled"), Canceled)
    for got in (beside, after):
        assert [gap(got[job.id].frames, expected[job.id].frames) for job in jobs] == [0.0, 0.0]  # type: ignore[union-attr]


def test_few_steps_are_all_computed_and_the_job_says_so(flux: tuple[Family, Any]) -> None:
    family, pipeline = flux
    few = request(family, "1", steps=4, speed="fast")
    lane = DiffusionLane(pipeline, kind=family.kind)

    end = rendered(lane, [few])["1"]
    lane.close()

    assert end.warnings == (TOO_FEW_STEPS,)
    assert gap(end.frames, direct(pipeline, few)) == 0.0


@pytest.mark.parametrize("name", ["AmusedPipeline", "StableDiffusionSAGPipeline"])
def test_a_pipeline_that_reads_tokens_or_looks_into_the_denoiser_is_computed_whole_and_the_job_says_so(
    name: str,
) -> None:
    family = ALL[name]
    lane = DiffusionLane(family.build(), kind=family.kind, merging="off")
    exact, fast = (request(family, speed, steps=12, speed=speed) for speed in ("exact", "fast"))

    ended = rendered(lane, [exact]) | rendered(lane, [fast])
    lane.close()

    assert NO_STEP_SKIPPED in ended["fast"].warnings
    assert gap(ended["fast"].frames, ended["exact"].frames) == 0.0


@pytest.mark.slow
def test_a_trained_model_comes_much_nearer_to_its_exact_picture_than_with_as_few_steps() -> None:
    pipeline = DiffusionPipeline.from_pretrained(ROOT / "models/builtin/tiny-scenes", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    lane = DiffusionLane(pipeline, kind="image")
    call = {"use_resolution_binning": False, "max_sequence_length": 32, "clean_caption": False}
    size = {"width": 128, "height": 128, "guidance_scale": 3.0, "call": call}

    def distance(steps: int, speed: Speed) -> float:
        made = [
            rendered(lane, [request(FAMILIES["pixart"], "1", prompt=prompt, steps=n, speed=at, **size)])["1"].frames
            for prompt in ("Ocean waves at sunset", "a red circle on a blue background")
            for n, at in ((28, "exact"), (steps, speed))
        ]
        return max(
            float(np.sqrt(((one - other) ** 2).mean())) for one, other in zip(made[::2], made[1::2], strict=True)
        )

    balanced, fewer = distance(28, "balanced"), distance(computed_steps("balanced", 28), "exact")
    lane.close()

    assert balanced < 0.01
    assert balanced < fewer / 2
