"""Reads the tensors of one component from a single file, as plain floats. Device thread only.

fp8 weights with scales are multiplied with them, one at a time and at the serving dtype, so that no more memory is held
than the component needs anyway. All other tensors stay mapped to the file until the library casts them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from models.checkpoint.weight_scales import block_size, is_about_packing, weight_scales
from models.files.gguf_header import read_gguf_header
from models.files.weight_header import tensors_of


def read_tensors(file: Path, names: Iterable[str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Reads these tensors of a safetensors file, but not those that describe how others are packed."""
    wanted = {name for name in names if not is_about_packing(name)}
    scales = weight_scales(tensors_of(file))
    found: dict[str, torch.Tensor] = {}
    with safe_open(file, framework="pt") as opened:
        for name in opened.offset_keys():
            if name in wanted:
                tensor = opened.get_tensor(name)
                found[name] = unscaled(tensor, opened.get_tensor(scales[name]), dtype) if name in scales else tensor
    return found


def unscaled(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Multiplies a weight with its scale: one number, one for each row, or one for each block of both axes."""
    scale = scale.float()
    if scale.numel() > 1:
        if scale.ndim == 1:
            scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        for axis, size in enumerate(weight.shape):
            scale = scale.repeat_interleave(block_size(size, scale.shape[axis]), axis).narrow(axis, 0, size)
    else:
        scale = scale.reshape(())
    return (weight.float() * scale).to(dtype)


def read_gguf_tensors(file: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Reads a GGUF as diffusers does. Weights of linear layers stay packed.

    diffusers unpacks only those: a packed convolution, and a tensor that was stored in another shape, is unpacked here.
    """
    from diffusers.models.model_loading_utils import load_gguf_checkpoint
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    found: dict[str, Any] = load_gguf_checkpoint(str(file))
    for name, header in read_gguf_header(file).tensors.items():
        tensor = found[name]
        stored_as_is = tuple(getattr(tensor, "quant_shape", tensor.shape)) == header.shape
        if isinstance(tensor, GGUFParameter) and (len(header.shape) != 2 or not stored_as_is):
            tensor = dequantize_gguf_tensor(tensor).to(dtype)
        found[name] = tensor if stored_as_is and len(header.shape) == 2 else tensor.reshape(header.shape)
    return found
