"""What a model needs of the device when its weights visit it block by block."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from models.offload_size import visiting_bytes
from tests.support.stock_families import stable_diffusion


def saved(folder: Path, **sizes: int) -> None:
    """Tensors of so many float32; "__" in a name stands for a dot."""
    folder.mkdir(parents=True)
    tensors = {name.replace("__", "."): torch.zeros(size) for name, size in sizes.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def test_two_blocks_and_what_is_in_no_block_visit_at_once_of_one_component_at_a_time(tmp_path: Path) -> None:
    blocks = {f"blocks__{i}__weight": size for i, size in enumerate((100, 300, 200))}
    saved(tmp_path / "transformer", proj__weight=10, **blocks)
    saved(tmp_path / "vae", decoder__up_blocks__0__weight=50)
    (tmp_path / "tokenizer").mkdir()

    assert visiting_bytes(tmp_path, 4) == 4 * (10 + 300 + 200)
    assert visiting_bytes(tmp_path, 2) == 2 * (10 + 300 + 200)


def test_the_groups_are_those_that_diffusers_makes(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    pipeline.save_pretrained(tmp_path)
    unet: UNet2DConditionModel = pipeline.unet
    lists = [child for child in unet.children() if isinstance(child, torch.nn.ModuleList)]
    in_blocks = sorted(_n_bytes(block) for blocks in lists for block in blocks)
    expected = _n_bytes(unet) - sum(in_blocks) + sum(in_blocks[-2:])

    others = [_n_bytes(pipeline.vae), _n_bytes(pipeline.text_encoder)]
    assert visiting_bytes(tmp_path, 4) == max(expected, *others)


def _n_bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
