"""Estimates the bytes of one tensor under `load.quantization`, from its name and shape. Pure functions.

bitsandbytes, torchao and quanto quantize linear layers; fp8-layerwise also convolutions, but not the layers that the
model class excludes.
"""

from __future__ import annotations

import re

from models.checkpoint.model_source import declared_names
from models.files.weight_header import Tensors

# Bytes per value and per row of a linear layer. The 4-bit formats have a scale per 64 (bitsandbytes) or 128 values.
VALUE_BYTES = {
    "bnb-8bit": 1.0, "torchao-int8": 1.0, "quanto-int8": 1.0,
    "bnb-4bit": 0.5 + 4 / 64, "torchao-int4": 0.5 + 4 / 128, "quanto-int4": 0.5 + 4 / 128,
}  # fmt: skip
ROW_BYTES = {"bnb-8bit": 4, "torchao-int8": 2, "quanto-int8": 2}
NEVER_LINEAR = re.compile(r"(embed_tokens|lm_head|wte|wpe|embeddings?)\.weight$|pos_embed$|scale_shift_table$")
# hooks/layerwise_casting.py of diffusers; a model class adds its own to the patterns.
NOT_CAST = ("pos_embed", "patch_embed", "norm", "^proj_in$", "^proj_out$")
# Single files have other names for the modulation in the norms of a transformer.
NOT_CAST_IN_FILE = (r"_mod\b", "modulation", "adaLN")


def quantized_bytes(kind: str, cls: str, name: str, tensors: Tensors, float_bytes: int, *, in_file: bool) -> int:
    """in_file: the tensors have the names of a single file. cls: the class of the component."""
    tensor = tensors[name]
    if kind == "fp8-layerwise":
        return tensor.elements * (1 if _is_cast(cls, name, tensors, in_file) else float_bytes)
    if len(tensor.shape) != 2 or not name.endswith(".weight") or NEVER_LINEAR.search(name):
        return tensor.elements * float_bytes
    return round(tensor.elements * VALUE_BYTES[kind]) + tensor.shape[0] * ROW_BYTES.get(kind, 0)


def _is_cast(cls: str, name: str, tensors: Tensors, in_file: bool) -> bool:
    layer, _, _ = name.rpartition(".")
    weight = tensors.get(f"{layer}.weight")
    if weight is None or len(weight.shape) < 2:
        return False  # a norm, or a parameter of no layer
    patterns = (*NOT_CAST, *declared_names(cls, "_skip_layerwise_casting_patterns"),
                *declared_names(cls, "_keep_in_fp32_modules"), *(NOT_CAST_IN_FILE if in_file else ()))  # fmt: skip
    steps = layer.split(".")
    ancestors = [".".join(steps[: depth + 1]) for depth in range(len(steps))]
    return not any(re.search(pattern, module) for pattern in patterns for module in ancestors)
