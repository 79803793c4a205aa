"""VAEs on a real GPU: the channels last change rounding only, survive parking, and tiles need less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from benchmarks.families.vaes import small_vae
from models.loading.memory_format import choose_memory_format, lay_out
from pipelines.batching.merging import difference
from pipelines.batching.proof import TOLERANCE
from pipelines.batching.tiles import in_tiles
from pipelines.device import PeakMeter
from pipelines.diffusion.lane import DiffusionLane
from tests.support.lanes.lane_play import gap, rendered, request
from tests.support.lanes.stock_families import FAMILIES
from tests.unit.models.loading.test_memory_format import is_channels_last

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "picture": (lambda: small_vae(stages=(64, 128)), (1, 4, 32, 32)),
    "clip": (lambda: AutoencoderKLWan(base_dim=32, num_res_blocks=1), (1, 16, 3, 16, 16)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, torch.Tensor]:
    build, shape = CASES[request.param]
    torch.manual_seed(0)
    return build().eval().to("cuda", torch.bfloat16), torch.randn(shape).to("cuda", torch.bfloat16)


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def test_the_channels_last_change_rounding_only(case: tuple[Any, torch.Tensor]) -> None:
    vae, latents = case
    usual = decode(vae, latents)
    lay_out(vae, channels_last=True)
    last = decode(vae, latents)

    assert difference(usual, last) <= TOLERANCE[torch.bfloat16]


def test_a_load_chooses_a_layout_by_a_trial_that_works(case: tuple[Any, torch.Tensor]) -> None:
    vae, _ = case
    found = choose_memory_format(vae, "cuda")

    assert found is not None, "the trial has failed"
    assert found.distance <= TOLERANCE[torch.bfloat16]
    assert is_channels_last(vae) is found.channels_last


def test_the_channels_stay_last_when_weights_are_parked_and_come_back() -> None:
    family = FAMILIES["sd15"]
    pipeline = family.build().to("cuda")
    lay_out(pipeline.vae, channels_last=True)
    lane = DiffusionLane(pipeline, kind=family.kind, device_name="cuda")
    before = rendered(lane, [request(family, "a")])["a"]
    assert lane.park(["vae"]) > 0
    assert is_channels_last(pipeline.vae)
    lane.unpark(["vae"])

    assert is_channels_last(pipeline.vae)
    assert gap(rendered(lane, [request(family, "b")])["b"].frames, before.frames) < 1e-4
    lane.close()


def test_a_decode_in_tiles_takes_less_memory(case: tuple[Any, torch.Tensor]) -> None:
    vae, latents = case
    latents = torch.cat([torch.cat([latents] * 4, -1)] * 4, -2)
    decode(vae, latents)  # what cuDNN keeps is there afterwards

    whole = peak(lambda: decode(vae, latents))
    with in_tiles(vae, latents, halvings=1):
        tiled = peak(lambda: decode(vae, latents))
    assert tiled < 0.8 * whole


def peak(work: Callable[[], object]) -> int:
    meter = PeakMeter("cuda")
    meter.resume()
    work()
    meter.pause()
    return meter.peak_bytes
