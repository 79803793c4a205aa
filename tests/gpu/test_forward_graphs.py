"""Denoisers' forwards as CUDA graphs on a real GPU: the same bits as eager forwards, and memory that is given back."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipelines import device
from pipelines.cuda_graphs import usual_pool
from pipelines.diffusion.graphs.forward_graphs import CHECKS, Entry, ForwardGraphs
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import GRAPHS
from tests.support.lanes.lane_play import mixed_four, rendered, request
from tests.support.lanes.stock_families import FAMILIES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

OFTEN, STEPS = 2, 10


def graphs() -> ForwardGraphs:
    """Records whatever comes twice, however the host does."""
    return ForwardGraphs(functools.partial(usual_pool, "cuda"), "cuda", often=OFTEN, most_seconds=60.0, launching=0.0)


def lane_of(name: str, **options: Any) -> DiffusionLane:
    family = FAMILIES[name]
    return DiffusionLane(family.build().to("cuda"), kind=family.kind, device_name="cuda", **options)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "pixart", "wan"])
def test_a_job_gets_the_same_bits_eager_while_its_forwards_are_recorded_and_from_replays(name: str) -> None:
    lane, job = lane_of(name), request(FAMILIES[name], "a", steps=STEPS)
    rendered(lane, [job])  # libraries choose their kernels
    expected = rendered(lane, [job])["a"].frames
    lane.record_forwards(graphs())
    pictures = [rendered(lane, [job])["a"].frames for _ in range(3)]

    assert all("not CUDA graphs" not in note for note in lane.notes), lane.notes
    assert lane.components[GRAPHS] > 0
    assert all(np.array_equal(expected, picture) for picture in pictures)
    lane.close()


def test_merged_jobs_get_the_same_bits_with_recordings_as_without() -> None:
    lane, jobs = lane_of("sdxl"), mixed_four(FAMILIES["sdxl"])
    rendered(lane, jobs)  # proves that they may be merged
    expected = rendered(lane, jobs)
    recorded = graphs()
    lane.record_forwards(recorded)
    for _ in range(2):
        found = rendered(lane, jobs)
        assert all(np.array_equal(end.frames, expected[name].frames) for name, end in found.items())

    assert recorded.n_graphs > 1, lane.notes
    lane.close()


def test_graphs_are_recorded_again_after_the_weights_were_away() -> None:
    lane, job = lane_of("sd15"), request(FAMILIES["sd15"], "a", steps=STEPS)
    lane.record_forwards(graphs())
    rendered(lane, [job])
    expected = rendered(lane, [job])["a"].frames
    names = [name for name in lane.components if name != GRAPHS]
    lane.park(names)
    assert GRAPHS not in lane.components
    blocker = torch.full((4 << 20,), torch.nan, device="cuda")  # where the weights were
    lane.unpark(names)
    pictures = [rendered(lane, [job])["a"].frames for _ in range(2)]

    assert all(np.array_equal(expected, picture) for picture in pictures)
    assert lane.components[GRAPHS] > 0
    assert len(blocker)
    lane.close()


def test_a_lane_counts_its_graphs_and_gives_their_memory_back() -> None:
    lane, job = lane_of("sd15"), request(FAMILIES["sd15"], "a", steps=STEPS)
    for recorded in (graphs(), graphs()):  # with the first one, libraries take their workspaces
        lane.record_forwards(ForwardGraphs(None, "cuda"))
        rendered(lane, [job])
        device.release_cache()
        held = device.held_by_us("cuda")
        lane.record_forwards(recorded)
        rendered(lane, [job])
        device.release_cache()
        taken = device.held_by_us("cuda") - held
        counted = lane.components[GRAPHS]
        lane.drop_adapters([GRAPHS])
        left = device.held_by_us("cuda") - held

    assert abs(taken - counted) <= 24 << 20, f"{taken} instead of {counted}: blocks of 2 and 20 MiB are rounded up"
    assert left <= 4 << 20
    lane.close()


class WaitsForTheDevice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8, device="cuda")

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layer(sample) * float(sample.sum()),)


class CopiesFromTheHost(WaitsForTheDevice):
    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layer(sample) * torch.arange(8.0).to("cuda", non_blocking=True),)


@pytest.mark.parametrize(
    ("cls", "words"), [(WaitsForTheDevice, "makes the host wait"), (CopiesFromTheHost, "copies from host memory")]
)
@torch.no_grad()
def test_what_cannot_be_recorded_runs_as_it_is_and_leaves_the_device_usable(cls: type, words: str) -> None:
    module = cls()
    entry = Entry(module.forward, module.forward, module.forward)
    recorded = graphs()
    run = recorded.wrap_forward(entry, variant=None, job="a", code=lambda: 0, changed=lambda: False)
    samples = [torch.randn(4, 8, device="cuda") for _ in range(OFTEN + CHECKS + 2)]
    outputs = [run(sample)[0] for sample in samples]

    assert any(words in note for note in recorded.notes), recorded.notes
    assert all(torch.equal(output, module(sample)[0]) for output, sample in zip(outputs, samples, strict=True))


@torch.no_grad()
def test_replays_keep_their_outputs_apart_and_follow_their_arguments() -> None:
    module = nn.Linear(64, 64, device="cuda")
    recorded = graphs()
    entry = Entry(module.forward, module.forward, module.forward)
    run = recorded.wrap_forward(entry, variant=None, job="a", code=lambda: 0, changed=lambda: False)
    samples = [torch.randn(1, 64, device="cuda").expand(16, 64) for _ in range(OFTEN + CHECKS + 4)]
    outputs = [run(sample) for sample in samples]

    assert recorded.n_graphs == 1, recorded.notes
    assert all(torch.equal(output, module(sample)) for output, sample in zip(outputs, samples, strict=True))
