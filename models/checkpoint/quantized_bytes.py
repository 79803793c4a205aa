"""Estimates the bytes of one tensor under `load.quantization`, from its name and shape. Pure functions.

bitsandbytes, torchao and quanto quantize linear layers; fp8-layerwise also convolutions, but not the layers that the
model class excludes; fp8 and int8 the large linear layers inside the numbered blocks of a model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from models.checkpoint.denoiser_input import DENOISERS
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

# The layers of these kinds are in pipelines/quantized/.
EIGHT_BIT = ("fp8", "int8")  # matrix multiplications run in eight bits
CPU_ONLY = "cpu-int8"  # weights packed in eight bits or fewer; on a GPU it does nothing
EIGHT_BIT_PARTS = (*DENOISERS, "transformer_2")  # components of a pipeline that they quantize
# Layers that are left as they are: embeddings of time, text and position, the modulation that they feed (one row for
# each picture, so nothing is saved), what routes to experts, and experts, which the libraries hold as one tensor.
NOT_EIGHT_BIT = ("norm", "emb", *NOT_CAST_IN_FILE, "adaln", "final_layer", r"(^|\.)(gate|router|shared_expert_gate)$",
                 r"experts?(\.|$)")  # fmt: skip
SMALLEST_SIDE = 256  # of a matrix that gains more in eight bits than the quantization of its input costs
SMALLEST_PACKED_SIDE = 64  # on a CPU, where a packed layer quantizes nothing while it runs
SIDE_MULTIPLE = 16  # of the matrices that the kernels take


def runs_in_eight_bits(cls: str, layer: str, shape: Sequence[int]) -> bool:
    """Whether the fp8 and int8 quantizations take this linear layer. layer: its name. shape: (outputs, inputs)."""
    return _is_large_in_block(cls, layer, shape, SMALLEST_SIDE)


def is_packed(layer: str, shape: Sequence[int]) -> bool:
    """Whether a CPU takes this linear layer of a language model. The head is one of them, and the largest."""
    is_head = layer.endswith("lm_head") and len(shape) == 2 and not any(side % SIDE_MULTIPLE for side in shape)
    return is_head or _is_large_in_block("", layer, shape, SMALLEST_PACKED_SIDE)


def _is_large_in_block(cls: str, layer: str, shape: Sequence[int], smallest_side: int) -> bool:
    steps = layer.split(".")
    if len(shape) != 2 or not any(step.isdecimal() for step in steps[:-1]):
        return False  # no matrix, or a first or last layer of the model, outside its blocks
    if min(shape) < smallest_side or any(side % SIDE_MULTIPLE for side in shape):
        return False
    patterns = (*NOT_EIGHT_BIT, *_excluded(cls))
    return not any(re.search(pattern, module) for pattern in patterns for module in _with_ancestors(layer))


def quantized_components(kind: str | None) -> tuple[str, ...]:
    """Returns the names of the components whose weights are quantized; a language model is one, "model"."""
    return ("model", *(EIGHT_BIT_PARTS if kind in EIGHT_BIT else DENOISERS))


def quantized_bytes(kind: str, cls: str, name: str, tensors: Tensors, float_bytes: int, *, in_file: bool) -> int:
    """in_file: the tensors have the names of a single file. cls: the class of the component."""
    tensor = tensors[name]
    if kind == "fp8-layerwise":
        return tensor.elements * (1 if _is_cast(cls, name, tensors, in_file) else float_bytes)
    if kind == CPU_ONLY:
        return _packed_bytes(name, tensors, float_bytes)
    if kind in EIGHT_BIT:
        taken = name.endswith(".weight") and runs_in_eight_bits(cls, name.removesuffix(".weight"), tensor.shape)
        return tensor.elements + 4 * tensor.shape[0] if taken else tensor.elements * float_bytes
    if len(tensor.shape) != 2 or not name.endswith(".weight") or NEVER_LINEAR.search(name):
        return tensor.elements * float_bytes
    return round(tensor.elements * VALUE_BYTES[kind]) + tensor.shape[0] * ROW_BYTES.get(kind, 0)


def _packed_bytes(name: str, tensors: Tensors, float_bytes: int) -> int:
    """At most: four bits take less. A head that is tied to the embedding gets a packed copy of its own."""
    tensor, layer = tensors[name], name.removesuffix(".weight")
    rounded = tensor.elements + 6 * tensor.shape[0] if tensor.shape else 0  # a scale in float32, a one in bfloat16
    if name.endswith("embed_tokens.weight") and not any(other.endswith("lm_head.weight") for other in tensors):
        return tensor.elements * float_bytes + rounded
    return rounded if is_packed(layer, tensor.shape) else tensor.elements * float_bytes


def _is_cast(cls: str, name: str, tensors: Tensors, in_file: bool) -> bool:
    layer, _, _ = name.rpartition(".")
    weight = tensors.get(f"{layer}.weight")
    if weight is None or len(weight.shape) < 2:
        return False  # a norm, or a parameter of no layer
    patterns = (*NOT_CAST, *_excluded(cls), *(NOT_CAST_IN_FILE if in_file else ()))
    return not any(re.search(pattern, module) for pattern in patterns for module in _with_ancestors(layer))


def _excluded(cls: str) -> tuple[str, ...]:
    """Returns the patterns of layers that the model class itself keeps in full precision."""
    return (*declared_names(cls, "_skip_layerwise_casting_patterns"), *declared_names(cls, "_keep_in_fp32_modules"))


def _with_ancestors(layer: str) -> list[str]:
    steps = layer.split(".")
    return [".".join(steps[: depth + 1]) for depth in range(len(steps))]
