"""Applies the load options of a model to its pipeline: quantization, attention, embeddings, offload.

Device thread only.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from models.checkpoint.denoiser_input import DENOISERS
from models.checkpoint.quantized_bytes import EIGHT_BIT_PARTS
from models.errors import BadModel
from models.load_options import SDXL_EMBEDDINGS
from models.loading.eight_bit import eight_bit_kind, use_eight_bits
from models.spec import ModelSpec
from pipelines.device import is_fatal, is_out_of_memory
from pipelines.diffusion.attention_choice import NATIVE, choose_attention, register

logger = logging.getLogger(__name__)

USUAL_SIDE = 1024  # pixels, of a model that names no size
TEXT_TOKENS = 512  # beside those of a picture, in most transformers


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
            try_option("attention", functools.partial(_set_attention, denoiser, load.attention))
        elif device.startswith("cuda"):
            notes += _choose_attention(denoiser, spec, dtype, device)
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


def _choose_attention(denoiser: Any, spec: ModelSpec, dtype: torch.dtype, device: str) -> list[str]:
    """Sets the fastest backend. When the measurement fails, torch's own stays, with a sentence."""
    try:
        backend = choose_attention(denoiser, usual_tokens(spec), dtype, device)
        if backend is not None and backend != NATIVE:
            _set_attention(denoiser, backend)
    except Exception as error:  # many kinds, from the kernels of several libraries; the model runs without a choice
        if is_fatal(error):
            raise
        logger.warning("attention not measured", extra={"model": spec.name}, exc_info=True)
        return [f"The attention kernels could not be measured, so torch chooses one ({type(error).__name__})."]
    return []


def usual_tokens(spec: ModelSpec) -> int:
    """Returns about how many tokens the denoiser reads for a picture or clip of the usual size.

    A transformer makes one token of each cell of the grid that widths and heights must be multiples of.
    """
    defaults, limits = spec.defaults, spec.limits
    width, height = ((side or USUAL_SIDE) // limits.size_multiple for side in (defaults.width, defaults.height))
    frames = (defaults.num_frames or 1) // limits.frames_multiple or 1 if spec.type == "video" else 1
    return width * height * frames + TEXT_TOKENS


def _set_attention(denoiser: Any, attention: str) -> None:
    """Sets the backend of this model alone: diffusers also makes it the default of every other model."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    register(attention)
    usual = Registry._active_backend
    try:
        denoiser.set_attention_backend(attention)
    finally:
        Registry.set_active_backend(usual)


def enable_offload(pipeline: Any, device: str) -> Any:
    use_stream = device != "cpu"  # prefetches the next block while the current one runs
    pipeline.enable_group_offload(
        torch.device(device), offload_type="block_level", num_blocks_per_group=1, use_stream=use_stream
    )
    return pipeline


def denoiser_quantization(spec: ModelSpec, classes: Iterable[str]) -> dict[str, Any]:
    """Quantizes the denoisers only: they have most of the weights, and text encoders lose more quality."""
    import diffusers

    config = _quantization_config(spec.load.quantization, diffusers)
    return {} if config is None else {name: config for name in DENOISERS if name in classes}


def chat_quantization(spec: ModelSpec) -> dict[str, Any]:
    import transformers

    config = _quantization_config(spec.load.quantization, transformers)
    return {} if config is None else {"quantization_config": config}


def _quantization_config(kind: str | None, library: Any) -> Any:
    """`library` is diffusers or transformers, which name these classes alike."""
    match kind:
        case "bnb-8bit":
            return library.BitsAndBytesConfig(load_in_8bit=True)
        case "bnb-4bit":
            return library.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
        case "torchao-int8" | "torchao-int4":
            import torchao.quantization as ao

            return library.TorchAoConfig(
                ao.Int8WeightOnlyConfig() if kind == "torchao-int8" else ao.Int4WeightOnlyConfig()
            )
        case "quanto-int8" | "quanto-int4":
            width = kind.removeprefix("quanto-")
            return library.QuantoConfig(**{"weights_dtype" if library.__name__ == "diffusers" else "weights": width})
        case _:
            return None
