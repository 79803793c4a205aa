"""Predicted steps on a real GPU: nothing waits for the device, and a job gets what it gets alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.step_cache import StepCache
from pipelines.step_schedule import computed_steps
from tests.support.lanes.lane_play import gap, rendered, request
from tests.support.lanes.stock_families import FAMILIES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

STEPS = 20


@pytest.fixture
def waits_are_errors() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("waits_are_errors")
def test_fitting_and_predicting_wait_for_nothing() -> None:
    cache, output = StepCache("balanced"), torch.ones(2, 64, 64, device="cuda", dtype=torch.bfloat16)
    cache.at_step(0, STEPS)
    for step in range(STEPS):
        cache.call("transformer", (output,), lambda step=step: (output * step,))  # type: ignore[misc]
        cache.at_step(step + 1, STEPS)

    assert cache.n_predicted == STEPS - computed_steps("balanced", STEPS)


@pytest.mark.parametrize("name", ["flux", "sdxl", "wan"])
def test_jobs_of_all_speeds_get_what_they_get_alone(name: str) -> None:
    family = FAMILIES[name]
    lane = DiffusionLane(family.build().to("cuda"), kind=family.kind, merging="off", device_name="cuda")
    jobs = [request(family, speed, steps=14, seed=i, speed=speed) for i, speed in enumerate(("exact", "balanced"))]

    alone = {job.id: rendered(lane, [job])[job.id].frames for job in jobs}
    together = rendered(lane, jobs)
    lane.close()

    assert max(gap(end.frames, alone[name]) for name, end in together.items()) < 1e-5
