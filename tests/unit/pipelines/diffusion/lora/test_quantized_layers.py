"""LoRAs are worn on layers that compute in eight bits; DoRAs, which scale the layers' own weights, are refused."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import quantized_bytes
from models.loading.quantization.eight_bit import use_eight_bits
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import Lora
from pipelines.interface import Failed
from tests.support.lanes.lane_play import ends, gap, play, rendered, request
from tests.support.lanes.loras import make_lora, with_adapters
from tests.support.lanes.stock_families import FAMILIES

pytestmark = pytest.mark.slow

SD = FAMILIES["sd15"]
ask = functools.partial(request, SD)


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> DiffusionLane:
    monkeypatch.setattr(quantized_bytes, "SMALLEST_SIDE", 16)
    pipeline = SD.build()
    use_eight_bits("unet", pipeline.unet, "int8", "cpu")
    return DiffusionLane(pipeline, kind="image")


def test_a_lora_changes_the_picture_as_it_does_in_full_precision(tmp_path: Path, lane: DiffusionLane) -> None:
    plain, inked = ask("plain", seed=1), ask("inked", seed=1, loras=(make_lora(tmp_path, "ink", 1),))

    done = rendered(lane, [plain, inked])

    in_full = with_adapters(inked)
    effect = gap(in_full, with_adapters(plain))
    rounding = gap(done["inked"].frames, in_full)
    assert 0 < rounding < effect / 4
    assert gap(done["inked"].frames, done["plain"].frames) > effect / 2
    lane.close()


def test_a_dora_is_refused_with_the_reason(tmp_path: Path, lane: DiffusionLane) -> None:
    ink = make_lora(tmp_path, "ink", 1)
    tensors = load_file(ink.path)
    magnitudes = {
        key.replace("lora_B.weight", "lora_magnitude_vector"): torch.ones(tensor.shape[0])
        for key, tensor in tensors.items()
        if key.endswith("lora_B.weight")
    }
    save_file(tensors | magnitudes, tmp_path / "dora.safetensors")

    lane.admit(ask("a", loras=(Lora("dora", str(tmp_path / "dora.safetensors"), 1.0),)))
    end = ends(play(lane))["a"]

    assert isinstance(end, Failed)
    assert "is a DoRA, which scales the layers' own weights" in end.message
    lane.close()
