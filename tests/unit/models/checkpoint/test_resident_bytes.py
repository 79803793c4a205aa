"""The bytes on the device are counted from headers: what is tied is counted once, what is not read is not counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.checkpoint.resident_bytes import ServedAs, component_bytes, folder_bytes
from tests.support.checkpoints import chat_folder, safetensors_bytes, stable_diffusion_folder, write_json

F16 = ServedAs(2, is_float16=True)
BF16, F32 = ServedAs(2), ServedAs(4)
Stored = dict[str, tuple[str, list[int], int]]


def part(folder: Path, tensors: Stored, **config: object) -> Path:
    write_json(folder / "config.json", {"model_type": "t5", **config})
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def test_floats_are_counted_at_the_serving_width_and_integers_at_their_own(tmp_path: Path) -> None:
    stored: Stored = {"a": ("F16", [10], 20), "b": ("F8_E4M3", [8], 8), "ids": ("I64", [3], 24)}
    folder = part(tmp_path / "part", stored)

    assert folder_bytes(folder, "text_encoder", "T", F32) == 4 * 18 + 24
    assert folder_bytes(folder, "text_encoder", "T", BF16) == 2 * 18 + 24


def test_fp8_that_the_library_runs_as_it_is_keeps_its_width(tmp_path: Path) -> None:
    folder = part(tmp_path / "part", {"a": ("F8_E4M3", [8], 8)}, quantization_config={"quant_method": "fp8"})

    assert folder_bytes(folder, "model", "", BF16) == 8


def test_a_part_that_no_module_reads_is_not_counted(tmp_path: Path) -> None:
    t5: Stored = {
        "shared.weight": ("F16", [5], 10),
        "encoder.embed_tokens.weight": ("F16", [5], 10),
        "encoder.block.0.layer.1.DenseReluDense.wo.weight": ("F16", [7], 14),
        "decoder.block.0.layer.0.SelfAttention.q.weight": ("F16", [9], 18),
        "encoder.position_ids": ("I64", [9], 72),
    }
    folder = part(tmp_path / "part", t5)

    assert folder_bytes(folder, "text_encoder", "T5EncoderModel", BF16) == 2 * 12
    assert folder_bytes(folder, "text_encoder", "T5EncoderModel", F16) == 2 * 5 + 4 * 7  # `wo` stays in float32


@pytest.mark.parametrize(("tied", "rows"), [(True, 6), (False, 12)])
def test_a_tied_head_is_counted_once(tmp_path: Path, tied: bool, rows: int) -> None:
    folder = chat_folder(tmp_path / "chat", tie_word_embeddings=tied)
    both: Stored = {"model.embed_tokens.weight": ("F16", [6], 12), "lm_head.weight": ("F16", [6], 12)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(both))

    assert component_bytes(folder, None, BF16) == {"model": 2 * rows}


def test_a_single_file_counts_what_is_read_from_it_and_from_its_base(tmp_path: Path) -> None:
    base = stable_diffusion_folder(tmp_path / "base", unet=["diffusers", "UNet2DConditionModel"])
    file = tmp_path / "one.safetensors"
    stored: Stored = {
        "model.diffusion_model.out.2.weight": ("F8_E4M3", [10], 10),
        "model.diffusion_model.out.2.scale_weight": ("F32", [1], 4),
        "model.diffusion_model.scaled_fp8": ("F8_E4M3", [2], 2),
        "model_ema.diffusion_modelout2weight": ("F32", [10], 40),
        "alphas_cumprod": ("F32", [1000], 4000),
    }
    file.write_bytes(safetensors_bytes(stored))

    assert component_bytes(file, base, BF16) == {"unet": 20, "scheduler": 0, "vae": 16}


def test_quantized_layers_are_counted_with_their_scales(tmp_path: Path) -> None:
    stored: Stored = {
        "proj.weight": ("F16", [64, 128], 64 * 128 * 2),
        "proj.bias": ("F16", [64], 128),
        "norm.weight": ("F16", [64], 128),
        "norm1.linear.weight": ("F16", [64, 128], 64 * 128 * 2),
    }
    folder = part(tmp_path / "part", stored)
    rest = 2 * (64 + 64)

    def counted(kind: str) -> int:
        return folder_bytes(folder, "transformer", "FluxTransformer2DModel", ServedAs(2, quantization=kind))

    assert counted("bnb-8bit") == 2 * (64 * 128 + 4 * 64) + rest
    assert counted("bnb-4bit") == 2 * (64 * 128 * 9 // 16) + rest
    assert counted("fp8-layerwise") == 64 * 128 + 64 + 2 * 64 + 2 * 64 * 128  # not the layers of a norm
    assert folder_bytes(folder, "text_encoder", "T", ServedAs(2, quantization="bnb-8bit")) == 4 * 64 * 128 + rest
