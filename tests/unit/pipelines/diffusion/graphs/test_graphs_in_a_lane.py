"""Recorded forwards in a lane: each job gets the bits that it gets without them, whoever runs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from pipelines.diffusion.graphs.forward_graphs import CHECKS, ForwardGraphs
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest, Lora
from pipelines.interface import GRAPHS, Rendered, StepCost, WeightsChanged
from tests.support.lanes.lane_play import ends, mixed_four, play, rendered, request
from tests.support.lanes.recording_pool import RecordingPool
from tests.support.lanes.stock_families import FAMILIES

SD = FAMILIES["sd15"]
STEPS = 10


class Recorder:
    """Makes lanes whose forwards are recorded, and counts."""

    def __init__(self) -> None:
        self.pools: list[RecordingPool] = []

    def lane(self, name: str = "sd15", **options: Any) -> DiffusionLane:
        lane = plain_lane(name, **options)
        lane.record_forwards(ForwardGraphs(self._pool, "cpu", often=2, most_seconds=60.0))
        return lane

    def _pool(self) -> RecordingPool:
        self.pools.append(RecordingPool())
        return self.pools[-1]

    @property
    def n_replays(self) -> int:
        return sum(pool.n_replays for pool in self.pools)


def plain_lane(name: str = "sd15", **options: Any) -> DiffusionLane:
    return DiffusionLane(FAMILIES[name].build(), kind=FAMILIES[name].kind, **options)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def assert_equal(found: dict[str, Rendered], wanted: dict[str, Rendered]) -> None:
    assert found.keys() == wanted.keys()
    for name, end in found.items():
        np.testing.assert_array_equal(end.frames, wanted[name].frames)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "pixart"])
def test_pictures_are_those_of_the_lane_without_recordings(name: str, recorder: Recorder) -> None:
    jobs = [request(FAMILIES[name], f"{i}", steps=STEPS, seed=i) for i in range(2)]
    lane, plain = recorder.lane(name), plain_lane(name)
    for job in jobs:
        assert_equal(rendered(lane, [job]), rendered(plain, [job]))

    assert recorder.n_replays > STEPS
    assert any("CUDA graphs" in note for note in lane.notes)


@pytest.mark.slow
def test_merged_jobs_get_their_own_pictures(recorder: Recorder) -> None:
    jobs = [*mixed_four(SD), *(request(SD, f"{i}", steps=STEPS, seed=i, prompt=f"a circle, {i}") for i in range(2))]
    found, wanted = rendered(recorder.lane(), jobs), rendered(plain_lane(), jobs)

    assert_equal(found, wanted)
    assert max(end.batch_peak for end in found.values()) > 1
    assert recorder.n_replays


@pytest.mark.slow
def test_jobs_of_all_speeds_with_previews_get_what_they_get_without(recorder: Recorder) -> None:
    jobs = [request(SD, speed, steps=14, speed=speed, preview=True) for speed in ("exact", "fast")]

    assert_equal(rendered(recorder.lane(), jobs), rendered(plain_lane(), jobs))
    assert recorder.n_replays


def test_a_deterministic_job_gets_the_same_bits_before_and_after_the_recording(recorder: Recorder) -> None:
    lane = recorder.lane()
    pictures = [rendered(lane, [request(SD, "a", steps=STEPS, deterministic=True)])["a"].frames for _ in range(2)]

    np.testing.assert_array_equal(*pictures)
    assert recorder.n_replays


def lora(folder: Path) -> Lora:
    unet = SD.build().unet
    torch.manual_seed(3)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(folder, get_peft_model_state_dict(unet), weight_name="ink.safetensors")
    return Lora("ink", str(folder / "ink.safetensors"), 1.0)


@pytest.mark.slow
def test_jobs_with_and_without_a_lora_in_turns_get_what_they_get_without_recordings(
    recorder: Recorder, tmp_path: Path
) -> None:
    ink = lora(tmp_path)
    half = Lora(ink.name, ink.path, 0.5)
    worn: list[tuple[Lora, ...]] = [(), (ink,), (half,), ()]
    lane, plain = recorder.lane(), plain_lane()
    for i, loras in enumerate(worn):
        job = request(SD, f"{i}", steps=STEPS, loras=loras)
        assert_equal(rendered(lane, [job]), rendered(plain, [job]))
    together = [request(SD, f"{i}", steps=STEPS, loras=loras) for i, loras in enumerate(worn)]
    assert_equal(rendered(lane, together), rendered(plain, together))

    assert recorder.n_replays > 3 * STEPS


@pytest.mark.slow
def test_recordings_are_counted_dropped_for_memory_and_made_again(recorder: Recorder) -> None:
    lane, job = recorder.lane(), request(SD, "a", steps=STEPS)
    wanted = rendered(lane, [job])
    notes = lane.take_costs()

    assert any(isinstance(note, WeightsChanged) for note in notes)
    assert lane.components[GRAPHS] > 1 << 20
    assert lane.weight_bytes == sum(lane.components.values())
    lane.drop_adapters([GRAPHS])
    assert GRAPHS not in lane.components
    assert_equal(rendered(lane, [job]), wanted)
    assert len(recorder.pools) == 2


@pytest.mark.slow
@pytest.mark.parametrize("move", ["park", "unpark"])
def test_recordings_are_dropped_when_weights_are_to_move(move: str, recorder: Recorder) -> None:
    lane, job = recorder.lane(), request(SD, "a", steps=STEPS)
    wanted = rendered(lane, [job])
    getattr(lane, move)(["unet"])

    assert GRAPHS not in lane.components
    assert_equal(rendered(lane, [job]), wanted)


def test_a_recording_is_no_measurement_and_a_replay_tells_no_memory(recorder: Recorder) -> None:
    lane, job = recorder.lane(), request(SD, "a", steps=STEPS)
    rendered(lane, [job])
    first = [note for note in lane.take_costs() if isinstance(note, StepCost) and note.component == "unet"]
    rendered(lane, [job])
    second = [note for note in lane.take_costs() if isinstance(note, StepCost) and note.component == "unet"]

    assert len(second) - len(first) == 1 + CHECKS  # the recording, and what ran beside the forward
    assert all(note.peak_bytes is None for note in second)


@pytest.mark.slow
def test_a_lane_is_closed_with_all_its_recordings(recorder: Recorder) -> None:
    lane = recorder.lane()
    rendered(lane, [request(SD, "a", steps=STEPS)])
    lane.close()

    assert not lane._graphs.n_bytes


def test_canceling_between_replays_ends_the_job_alone(recorder: Recorder) -> None:
    lane = recorder.lane(merging="off")
    jobs: list[DiffusionRequest] = [request(SD, name, steps=STEPS, seed=i) for i, name in enumerate("ab")]
    wanted = rendered(plain_lane(merging="off"), [jobs[1]])
    for job in jobs:
        lane.admit(job)
    updates = [update for _ in range(12) for update in lane.step()]
    lane.cancel("a")
    found = ends([*updates, *play(lane)])

    assert isinstance(found["b"], Rendered)
    np.testing.assert_array_equal(found["b"].frames, wanted["b"].frames)
