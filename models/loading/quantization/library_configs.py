"""Says to diffusers and transformers which weights bitsandbytes, torchao or quanto are to quantize as they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from models.checkpoint.denoiser_input import DENOISERS
from models.spec import ModelSpec


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
