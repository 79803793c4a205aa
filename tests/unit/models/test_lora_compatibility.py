"""A request with a LoRA of another model is refused where the headers show it; other LoRAs are left to the library."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from models.lora_compatibility import may_fit
from models.lora_files import LoraFolder
from models.spec import ModelSpec
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest
from server.jobs.request.resolution import resolve
from tests.support.checkpoints import safetensors_bytes

LAYER = "down_blocks.0.attentions.0.to_q"
KOHYA = f"lora_unet_{LAYER.replace('.', '_')}"


def write_tensors(path: Path, **shapes: list[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    for name, shape in shapes.items():
        tensors[name] = ("F32", shape, 4 * math.prod(shape))
    path.write_bytes(safetensors_bytes(tensors))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A denoiser with one layer of 8 inputs."""
    write_tensors(tmp_path / "sd/unet/diffusion_pytorch_model.safetensors", **{f"{LAYER}.weight": [8, 8]})
    return tmp_path / "sd"


@pytest.mark.parametrize(
    ("key", "inputs", "fits"),
    [
        (f"unet.{LAYER}.lora_A.weight", 8, True),
        (f"{KOHYA}.lora_down.weight", 8, True),
        (f"{KOHYA}.lora_down.weight", 16, False),
        (f"unet.{LAYER}.lora.down.weight", 16, False),
        ("unet.up_blocks.9.to_q.lora_A.weight", 8, False),
        ("transformer.blocks.0.to_q.lora_A.weight", 8, False),
        ("lora_unet_input_blocks_4_1_to_q.lora_down.weight", 8, True),
        (f"unet.{LAYER.replace('.to_q', '')}.processor.to_q_lora.down.weight", 16, True),
        ("lora_te_text_model_encoder.lora_down.weight", 16, True),
        ("base_model.model.anything.lora_A.weight", 16, True),
    ],
)
def test_only_a_lora_whose_header_names_other_layers_is_refused(
    tmp_path: Path, checkpoint: Path, key: str, inputs: int, fits: bool
) -> None:
    lora = write_tensors(tmp_path / "loras/ink.safetensors", **{key: [2, inputs]})

    assert may_fit(lora, checkpoint) == fits
    assert may_fit(lora, lora), "a checkpoint in one file has the tensor names of the original code"


@pytest.mark.parametrize(
    ("key", "inputs", "fits"),
    [
        ("transformer.double_blocks.0.img_attn_qkv.lora_A.weight", 8, True),
        ("transformer.blocks.0.attn.to_q.lora_A.default.weight", 9, True),
        ("transformer.blocks.0.attn.to_q.lora_A.weight", 8, True),
        ("transformer.blocks.0.attn.to_q.lora_A.weight", 9, False),
        ("transformer.blocks.7.attn.to_q.lora_A.weight", 8, False),
        ("unet.down_blocks.0.to_q.lora_A.weight", 8, False),
    ],
)
def test_names_of_other_code_are_left_to_the_library(tmp_path: Path, key: str, inputs: int, fits: bool) -> None:
    """LoRAs of HunyuanVideo have `transformer.` before the layers' names of its authors."""
    weights = {"blocks.0.attn.to_q.weight": [8, 8]}
    write_tensors(tmp_path / "video/transformer/diffusion_pytorch_model.safetensors", **weights)

    assert may_fit(write_tensors(tmp_path / "x.safetensors", **{key: [2, inputs]}), tmp_path / "video") == fits


def test_the_packed_weights_of_a_quantized_checkpoint_do_not_tell_the_inputs(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {"blocks.0.attn.to_q.weight": ("U8", [32, 1], 32)}
    file = tmp_path / "small/transformer/diffusion_pytorch_model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(safetensors_bytes(tensors))
    lora = write_tensors(tmp_path / "x.safetensors", **{"transformer.blocks.0.attn.to_q.lora_A.weight": [2, 8]})

    assert may_fit(lora, tmp_path / "small")


def test_one_layer_that_fits_is_enough(tmp_path: Path, checkpoint: Path) -> None:
    layers = {f"unet.{LAYER}.lora_A.weight": [2, 8], "unet.up_blocks.9.to_q.lora_A.weight": [2, 8]}

    assert may_fit(write_tensors(tmp_path / "ink.safetensors", **layers), checkpoint)


def test_a_request_with_a_lora_of_another_model_is_refused_by_its_name(tmp_path: Path, checkpoint: Path) -> None:
    write_tensors(tmp_path / "loras/ink.safetensors", **{f"{KOHYA}.lora_down.weight": [2, 16]})
    spec = ModelSpec(name="sd", type="image", path=checkpoint, source="sd", takes_loras=True)
    request = GenerateRequest(prompt="x", type="image", loras=(("ink", 1.0),))

    with pytest.raises(BadRequest, match="loras: ink matches no layer of sd: it was made for another model"):
        resolve(
            request, spec, drawn_seed=1, auto_dtype="float32", priority=0, find_lora=LoraFolder(tmp_path / "loras").find
        )
