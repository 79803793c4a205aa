"""The bytes that an offloaded model has on the device at once."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from models.offload_size import offloaded_device_bytes
from tests.support.lanes.stock_families import stable_diffusion


def save_tensors(folder: Path, **sizes: int) -> None:
    """Writes tensors of so many float32 elements; "__" in a name stands for a dot."""
    folder.mkdir(parents=True)
    tensors = {name.replace("__", "."): torch.zeros(size) for name, size in sizes.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def test_the_largest_component_counts_with_two_blocks_and_all_that_is_in_no_block(tmp_path: Path) -> None:
    blocks = {f"blocks__{i}__weight": size for i, size in enumerate((100, 300, 200))}
    save_tensors(tmp_path / "transformer", proj__weight=10, **blocks)
    save_tensors(tmp_path / "vae", decoder__up_blocks__0__weight=50)
    (tmp_path / "tokenizer").mkdir()

    assert offloaded_device_bytes(tmp_path, 4) == 4 * (10 + 300 + 200)
    assert offloaded_device_bytes(tmp_path, 2) == 2 * (10 + 300 + 200)


def test_the_groups_are_those_that_diffusers_makes(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    pipeline.save_pretrained(tmp_path)
    unet: UNet2DConditionModel = pipeline.unet
    lists = [child for child in unet.children() if isinstance(child, torch.nn.ModuleList)]
    in_blocks = sorted(parameter_bytes(block) for blocks in lists for block in blocks)
    expected = parameter_bytes(unet) - sum(in_blocks) + sum(in_blocks[-2:])

    others = [parameter_bytes(pipeline.vae), parameter_bytes(pipeline.text_encoder)]
    assert offloaded_device_bytes(tmp_path, 4) == max(expected, *others)


def parameter_bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
