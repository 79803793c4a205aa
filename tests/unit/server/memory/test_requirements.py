"""The memory that a job needs on a device: weights, KV cache, adapters and measured activations."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from models.spec import LoadOptions, ModelSpec
from pipelines.diffusion_interface import DiffusionRequest, Lora
from server.memory.activations import Peaks
from server.memory.requirements import CHAT_CACHE_BYTES, MIN_CACHE_BYTES, Requirements, WeightPlacement, cache_bytes
from server.protocol import Peak

GIB = 1 << 30
FLUX = ModelSpec(name="flux", type="image", path=Path("flux"), source="flux", weight_bytes=10 * GIB)
TALKER = ModelSpec(name="talker", type="chat", path=Path("talker"), source="talker", weight_bytes=7 * GIB)


def request(side: int) -> DiffusionRequest:
    return DiffusionRequest(
        id="a/0", prompt="", negative_prompt=None, width=side, height=side, num_frames=None, steps=1,
        guidance_scale=None, seed=0,
    )  # fmt: skip


def placement(usable_bytes: int, *, auto_offload: bool = False) -> WeightPlacement:
    return WeightPlacement(usable_bytes, auto_offload=auto_offload, float_bytes=lambda _: 2)


def test_a_picture_needs_its_weights_and_the_peak_that_was_measured_for_its_size() -> None:
    peaks = Peaks()
    requirements = Requirements(peaks, lambda spec: f"key of {spec.name}", placement(16 * GIB))
    assert requirements.of(FLUX, [request(1024)]) == 10 * GIB

    peaks.record(Peak("key of flux", "transformer.forward", "1024x1024x1", 1024**2, 1, 3 * GIB))
    assert requirements.of(FLUX, [request(1024)]) == 13 * GIB
    assert requirements.of(FLUX, [request(512), request(2048)]) == 13 * GIB
    assert requirements.of(FLUX) == requirements.of(FLUX, [request(512)]) == 10 * GIB


def test_a_picture_with_adapters_needs_memory_for_them_too() -> None:
    loras = (Lora("ink", "ink", 1.0, n_bytes=GIB), Lora("wash", "wash", 0.5, n_bytes=GIB))
    requirements = Requirements(Peaks(), lambda spec: spec.name, placement(16 * GIB))

    assert requirements.of(FLUX, [replace(request(512), loras=loras), request(1024)]) == 12 * GIB


def test_a_chat_needs_its_weights_and_a_cache_as_large_as_they_leave_room_for() -> None:
    assert cache_bytes(1 * GIB, 16 * GIB) == CHAT_CACHE_BYTES
    assert cache_bytes(16 * GIB, 128 * GIB) == 4 * GIB, "a share of a large device"
    assert cache_bytes(7 * GIB, 7 * GIB + 200) == MIN_CACHE_BYTES
    assert cache_bytes(1 << 20, 100 << 20) == 25 << 20, "a quarter of a small device"
    assert Requirements(Peaks(), lambda _: "", placement(7 * GIB)).of(TALKER) > 7 * GIB
    need = Requirements(Peaks(), lambda _: "", placement(7 * GIB + MIN_CACHE_BYTES)).of(TALKER)
    assert need == 7 * GIB + MIN_CACHE_BYTES


def test_an_offloaded_model_needs_the_weights_that_are_on_the_device_at_once(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    tensors = {f"blocks.{i}.weight": torch.zeros(1000, dtype=torch.bfloat16) for i in range(5)}
    save_file(tensors, tmp_path / "transformer/diffusion_pytorch_model.safetensors")
    large = replace(FLUX, path=tmp_path, weight_bytes=10_000)
    for usable, auto_offload, offloads, need in (
        (20_000, True, False, 10_000),
        (8_000, False, False, 10_000),
        (8_000, True, True, 4_000),
    ):
        placed = placement(usable, auto_offload=auto_offload)
        assert (placed.offloads(large), placed.device_bytes(large)) == (offloads, need)
        assert Requirements(Peaks(), lambda _: "", placed).of(large, [request(64)]) == need
    assert placement(20_000).offloads(replace(large, load=LoadOptions(offload=True))), "its entry asks for it"
    assert not placement(1, auto_offload=True).offloads(TALKER)
    single_file = replace(large, path=tmp_path / "flux.safetensors")
    assert not placement(1, auto_offload=True).offloads(single_file)

    peaks = Peaks()
    peaks.record(Peak("flux", "transformer.forward", "64x64x1", 64**2, 1, 6_000))
    requirements = Requirements(peaks, lambda _: "", placement(8_000, auto_offload=True))
    assert requirements.of(large, [request(64)]) == 6_000, "the peak includes the blocks that visit the device"
