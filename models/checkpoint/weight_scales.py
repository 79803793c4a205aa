"""Tells from the names and types of tensors how the weights of a file are packed: plain, fp8 with scales, or otherwise.

fp8 weights with a scale (`scaled_fp8`, `scale_weight` of ComfyUI, `weight_scale` of others, DeepSeek's blocks) are
multiplied with it when they are loaded: the libraries would drop the scale. Any other packing is refused by its name.
Pure functions.
"""

from __future__ import annotations

from models.errors import BadModel
from models.files.safetensors_header import FLOAT_DTYPES
from models.files.weight_header import Tensors

# Suffixes of a tensor with the scale of the weight "<stem>.weight".
SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")
# Tensors that only kernels for packed weights read: scales of activations, and marks of the format.
KERNEL_ONLY = (".scale_input", ".input_scale", ".comfy_quant")
FP8_MARK = "scaled_fp8"
SCALE_DTYPES = frozenset({"F16", "BF16", "F32"})
PACKINGS = {  # a suffix that only this packing has → its name
    ".weight_scale_2": "NVFP4",
    ".wscales": "SVDQuant (Nunchaku)",
    ".qzeros": "GPTQ or AWQ",
    ".qweight": "packed integers (GPTQ, AWQ or SVDQuant)",
    ".weight_packed": "packed integers (compressed-tensors)",
    ".absmax": "4-bit (bitsandbytes)",
    ".SCB": "8-bit (bitsandbytes)",
}
INTEGERS = frozenset({"U8", "I8", "U16", "I16", "U32", "I32"})


def is_about_packing(name: str) -> bool:
    """Returns whether a tensor belongs to no module: it describes how a weight is packed."""
    return name.endswith((*SCALES, *KERNEL_ONLY)) or name.rpartition(".")[2] == FP8_MARK


def weight_scales(tensors: Tensors) -> dict[str, str]:
    """Returns the name of each scaled weight → the name of its scale.

    Raises `BadModel` that names the packing when the weights cannot be unpacked.
    """
    for suffix, packing in PACKINGS.items():
        if (name := next((name for name in tensors if name.endswith(suffix)), None)) is not None:
            raise BadModel(f"its weights are packed as {packing}, which cannot be served ({name[:120]})")
    found: dict[str, str] = {}
    for name in tensors:
        for suffix in SCALES:
            if name.endswith(suffix):
                weight = name.removesuffix(suffix) + ".weight"
                _check_scale(tensors, name, weight)
                found[weight] = name
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.dtype in INTEGERS and len(tensor.shape) > 1:
            raise BadModel(f"its weights are stored as {tensor.dtype}, which cannot be served ({name[:120]})")
    return found


def _check_scale(tensors: Tensors, name: str, weight: str) -> None:
    scale, scaled = tensors[name], tensors.get(weight)
    if scaled is None:
        raise BadModel(f"{name[:120]} is the scale of a weight that the file does not have")
    if scale.dtype not in SCALE_DTYPES:
        packing = {"F8_E4M3": "NVFP4", "F8_E8M0": "MXFP8", "U8": "MXFP8"}.get(scale.dtype, f"scales of {scale.dtype}")
        raise BadModel(f"its weights are packed as {packing}, which cannot be served ({name[:120]})")
    if scaled.dtype not in FLOAT_DTYPES:
        raise BadModel(f"its weights are packed as {scaled.dtype} with scales, which cannot be served ({weight[:120]})")
    if not _spreads_over(scale.shape, scaled.shape):
        raise BadModel(f"{name[:120]}: a scale of shape {list(scale.shape)} does not fit {list(scaled.shape)}")


def _spreads_over(scale: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Returns whether each value of the scale covers an equal part of the weight: all, rows, or blocks of both axes."""
    if all(size == 1 for size in scale):
        return True
    if len(scale) == 1:
        return scale[0] == weight[0]
    return len(scale) == len(weight) and all(
        0 < parts <= size and block_size(size, parts) * (parts - 1) < size
        for parts, size in zip(scale, weight, strict=True)
    )


def block_size(size: int, parts: int) -> int:
    """Returns how many values of an axis share a scale. Blocks are a power of two, and the last one may be smaller."""
    if parts == 1:
        return size
    return 1 << (-(-size // parts) - 1).bit_length()


def check_is_plain(component: str, tensors: Tensors) -> None:
    """Raises `BadModel` for a component in diffusers' layout with packed weights, which only a single file may have."""
    try:
        scaled = weight_scales(tensors)
    except BadModel as error:
        raise BadModel(f"{component}: {error.message}", detail=error.detail) from error
    if scaled:
        raise BadModel(
            f"{component}: its weights are fp8 with scales ({next(iter(scaled.values()))[:120]}), "
            "which are read from a single file only, and the library would drop them"
        )
