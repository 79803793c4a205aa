"""What a job needs of a device: weights, and what is known to come beside them."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from models.spec import LoadOptions, ModelSpec
from pipelines.interface import DiffusionRequest, Lora
from server.memory.activations import Peaks
from server.memory.requirements import CHAT_CACHE_BYTES, LEAST_CACHE_BYTES, Requirements, Weights, cache_bytes
from server.protocol import Peak

GIB = 1 << 30
FLUX = ModelSpec(name="flux", type="image", path=Path("flux"), source="flux", weight_bytes=10 * GIB)
TALKER = ModelSpec(name="talker", type="chat", path=Path("talker"), source="talker", weight_bytes=7 * GIB)


def request(side: int) -> DiffusionRequest:
    return DiffusionRequest(
        id="a/0", prompt="", negative_prompt=None, width=side, height=side, num_frames=None, steps=1, guidance_scale=None, seed=0
    )  # fmt: skip


def weights(usable_bytes: int, *, allowed: bool = False) -> Weights:
    return Weights(usable_bytes, allowed=allowed, float_bytes=lambda _: 2)


def test_a_picture_needs_its_weights_and_the_peak_that_was_measured_for_its_size() -> None:
    peaks = Peaks()
    requirements = Requirements(peaks, lambda spec: f"key of {spec.name}", weights(16 * GIB))
    assert requirements.of(FLUX, [request(1024)]) == 10 * GIB

    peaks.note(Peak("key of flux", "transformer.forward", "1024x1024x1", 1024**2, 1, 3 * GIB))
    assert requirements.of(FLUX, [request(1024)]) == 13 * GIB
    assert requirements.of(FLUX, [request(512), request(2048)]) == 13 * GIB
    assert requirements.of(FLUX) == requirements.of(FLUX, [request(512)]) == 10 * GIB


def test_a_picture_with_adapters_needs_them_too() -> None:
    worn = replace(request(512), loras=(Lora("ink", "ink", 1.0, n_bytes=GIB), Lora("wash", "wash", 0.5, n_bytes=GIB)))
    requirements = Requirements(Peaks(), lambda spec: spec.name, weights(16 * GIB))

    assert requirements.of(FLUX, [worn, request(1024)]) == 12 * GIB


def test_a_chat_needs_the_cache_that_its_weights_leave_room_for() -> None:
    assert cache_bytes(1 * GIB, 16 * GIB) == CHAT_CACHE_BYTES
    assert cache_bytes(7 * GIB, 7 * GIB + 200) == LEAST_CACHE_BYTES
    assert cache_bytes(1 << 20, 100 << 20) == 25 << 20, "a quarter of a small device"
    assert Requirements(Peaks(), lambda _: "", weights(7 * GIB)).of(TALKER) > 7 * GIB
    assert (
        Requirements(Peaks(), lambda _: "", weights(7 * GIB + LEAST_CACHE_BYTES)).of(TALKER)
        == 7 * GIB + LEAST_CACHE_BYTES
    )


def test_a_model_larger_than_the_device_needs_what_visits_at_once_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    tensors = {f"blocks.{i}.weight": torch.zeros(1000, dtype=torch.bfloat16) for i in range(5)}
    save_file(tensors, tmp_path / "transformer/diffusion_pytorch_model.safetensors")
    big = replace(FLUX, path=tmp_path, weight_bytes=10_000)
    for usable, allowed, offloads, need in (
        (20_000, True, False, 10_000),
        (8_000, False, False, 10_000),
        (8_000, True, True, 4_000),
    ):
        held = weights(usable, allowed=allowed)
        assert (held.offloads(big), held.on_device(big)) == (offloads, need)
        assert Requirements(Peaks(), lambda _: "", held).of(big, [request(64)]) == need
    assert weights(20_000).offloads(replace(big, load=LoadOptions(offload=True))), "it was told to"
    assert not weights(1, allowed=True).offloads(TALKER)
    one_file = replace(big, path=tmp_path / "flux.safetensors")
    assert not weights(1, allowed=True).offloads(one_file)

    peaks = Peaks()
    peaks.note(Peak("flux", "transformer.forward", "64x64x1", 64**2, 1, 6_000))
    assert Requirements(peaks, lambda _: "", weights(8_000, allowed=True)).of(big, [request(64)]) == 6_000, (
        "visitors included"
    )
