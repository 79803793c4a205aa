"""Previews and progress on a real GPU: no step waits for the device because somebody watches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pipelines.diffusion import preview
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import Previewed
from tests.support.lanes.lane_play import play, request
from tests.support.lanes.stock_families import FAMILIES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

STEPS = 6


@pytest.fixture(autouse=True)
def each_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(preview, "INTERVAL_S", 0.0)
    torch.cuda.synchronize()
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_fitting_and_showing_previews_wait_for_nothing() -> None:
    vae = FAMILIES["flux"].build().vae.to("cuda")
    channels = vae.config.latent_channels
    with torch.no_grad():
        vae.encode(torch.zeros(8, 3, 32, 32, device="cuda"))  # libraries wait while they start
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS, device="cuda")
    scheduler.set_begin_index(0)
    latents = torch.randn(1, channels, 16, 16, device="cuda")
    shown: list[Any] = []
    previews = preview.Previews()
    torch.cuda.synchronize()

    torch.cuda.set_sync_debug_mode("error")
    previews.fit(vae)
    assert previews._fitting is not None, "fitting failed, for example because it would have waited"
    previews.watch(SimpleNamespace(scheduler=scheduler), 1.0, shown.append)
    for timestep in scheduler.timesteps:
        latents = scheduler.step(latents, timestep, latents, return_dict=False)[0]
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()  # so that each preview is there after its step
        torch.cuda.set_sync_debug_mode("error")

    assert len(shown) >= 1


@pytest.mark.parametrize("name", ["flux", "sd15", "wan"])
def test_a_job_with_previews_waits_no_more_often_than_one_without(name: str) -> None:
    family = FAMILIES[name]
    lane = DiffusionLane(family.build().to("cuda"), kind=family.kind, merging="off", device_name="cuda")
    waits_of(lane, request(family, "first", steps=STEPS, preview=True))
    without, _ = waits_of(lane, request(family, "plain", steps=STEPS))
    with_previews, updates = waits_of(lane, request(family, "shown", steps=STEPS, preview=True))
    lane.close()

    assert any(isinstance(update, Previewed) for update in updates)
    assert with_previews <= without


def waits_of(lane: DiffusionLane, wanted: Any) -> tuple[int, list[Any]]:
    """How often the host waits for the device during a job, in our code and in the stock pipeline, and its updates."""
    lane.admit(wanted)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        updates = list(play(lane))
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(each.message) for each in found), updates
