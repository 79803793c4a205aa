"""Applies the load options of a model to its pipeline: quantization, attention, embeddings, offload.

Device thread only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from models.checkpoint.denoiser_input import DENOISERS
from models.checkpoint.quantized_bytes import EIGHT_BIT_PARTS
from models.errors import BadModel
from models.load_options import SDXL_EMBEDDINGS
from models.loading.attention import set_attention, use_fastest_attention
from models.loading.quantization.eight_bit import eight_bit_kind, use_eight_bits
from models.spec import ModelSpec
from pipelines.device import is_fatal, is_out_of_memory


def apply_options(pipeline: Any, spec: ModelSpec, dtype: torch.dtype, device: str, offload: bool) -> list[str]:
    """Returns sentences about what an option did. Layers in eight bits are on `device` then, unless `offload`."""
    load = spec.load
    notes: list[str] = []
    if (kind := eight_bit_kind(spec)) is not None:
        parts = {name: getattr(pipeline, name, None) for name in EIGHT_BIT_PARTS}
        for name, part in parts.items():
            if not isinstance(part, torch.nn.Module):
                continue
            quantize = functools.partial(use_eight_bits, name, part, kind, device, stays_on_host=offload)
            notes += try_option("quantization", quantize)
    for path in spec.embedding_paths:
        try_option("embeddings", functools.partial(_load_embedding, pipeline, path))
    for denoiser in (getattr(pipeline, name) for name in DENOISERS if getattr(pipeline, name, None) is not None):
        if load.quantization == "fp8-layerwise":
            fp8 = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": dtype}
            try_option("quantization", functools.partial(denoiser.enable_layerwise_casting, **fp8))
        if load.attention is not None:
            try_option("attention", functools.partial(set_attention, denoiser, load.attention))
        elif device.startswith("cuda"):
            notes += use_fastest_attention(denoiser, spec, dtype, device)
    return notes


def try_option(option: str, apply: Callable[[], Any]) -> Any:
    """Calls `apply`. When a library refuses the option for this checkpoint, raises `BadModel` that names the option."""
    try:
        return apply()
    except (ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        if is_out_of_memory(error) or is_fatal(error):
            raise
        raise BadModel(
            f"load.{option} does not work with this checkpoint on this machine", detail=str(error)
        ) from error


def _load_embedding(pipeline: Any, path: Path) -> None:
    """Loads a textual inversion under the name of its file. Those of SDXL have one tensor for each text encoder."""
    tensors = load_file(path)
    if set(tensors) != set(SDXL_EMBEDDINGS):
        pipeline.load_textual_inversion(tensors, token=path.stem)
        return
    for tensor_name, encoder in SDXL_EMBEDDINGS.items():
        tokenizer = getattr(pipeline, encoder.replace("text_encoder", "tokenizer"))
        pipeline.load_textual_inversion(
            {"emb_params": tensors[tensor_name]},
            token=path.stem,
            tokenizer=tokenizer,
            text_encoder=getattr(pipeline, encoder),
        )


def enable_offload(pipeline: Any, device: str) -> Any:
    use_stream = device != "cpu"  # prefetches the next block while the current one runs
    pipeline.enable_group_offload(
        torch.device(device), offload_type="block_level", num_blocks_per_group=1, use_stream=use_stream
    )
    return pipeline
