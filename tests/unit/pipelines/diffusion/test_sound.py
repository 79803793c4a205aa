"""Clips with sound: the lane returns the sound that the stock pipeline makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.families import FAMILIES
from pipelines.diffusion.frames import sound_of
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import Failed, Rendered
from tests.support.lanes.lane_play import ends, play, rendered, request

LTX_2 = FAMILIES["LTX2Pipeline"]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def ltx_2() -> Any:
    return LTX_2.build()


def test_the_sound_is_the_pipelines_own_at_its_rate(ltx_2: Any) -> None:
    one = request(LTX_2, "a", fps=24)
    arguments = {
        "prompt": one.prompt,
        "width": 32,
        "height": 32,
        "num_frames": 9,
        "frame_rate": 24,
        "guidance_scale": 4.0,
    }
    generator = torch.Generator("cpu").manual_seed(one.seed)
    direct = ltx_2(**arguments, **one.call, num_inference_steps=3, generator=generator, output_type="np")
    lane = DiffusionLane(ltx_2, kind="video")
    try:
        sound = rendered(lane, [one])["a"].sound
    finally:
        lane.close()

    assert sound is not None
    assert sound.rate == ltx_2.vocoder.config.output_sampling_rate == 24_000
    assert sound.samples.shape == tuple(direct.audio[0].shape)
    assert np.array_equal(sound.samples, direct.audio[0].numpy())


def test_sound_with_values_that_are_not_numbers_fails_the_job(ltx_2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ltx_2.vocoder, "forward", lambda mel: torch.full((1, 2, 100), torch.nan))
    lane = DiffusionLane(ltx_2, kind="video")
    try:
        lane.admit(request(LTX_2, "a", fps=24))
        end = ends(play(lane))["a"]
    finally:
        lane.close()
    assert isinstance(end, Failed)
    assert end.code == "invalid_output"


@pytest.mark.parametrize("audio", [torch.zeros(1, 50), np.zeros((1, 50), np.float32), torch.zeros(1, 1, 50)])
def test_sound_of_any_type_and_channel_count_becomes_a_channels_first_array(audio: Any) -> None:
    sound = sound_of(SimpleNamespace(audio=audio), SimpleNamespace(audio_sample_rate=44_100))
    assert sound is not None
    assert (sound.samples.shape, sound.samples.dtype, sound.rate) == ((1, 50), np.float32, 44_100)


def test_a_pipeline_without_sound_gives_none() -> None:
    assert sound_of((torch.zeros(1),), SimpleNamespace()) is None
    assert Rendered("a", np.zeros((1, 1, 1, 3), np.float32), 1, "S").sound is None
