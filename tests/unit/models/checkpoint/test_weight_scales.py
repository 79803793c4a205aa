"""fp8 with scales is recognized by its tensors; a packing that cannot be served is refused by its name."""

from __future__ import annotations

import pytest

from models.checkpoint.weight_scales import block_size, check_is_plain, weight_scales
from models.errors import BadModel
from models.files.safetensors_header import Tensor

FP8 = Tensor("F8_E4M3", (64, 32))
SCALAR = Tensor("F32", ())


@pytest.mark.parametrize("suffix", ["scale_weight", "weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("shape", [(), (1,), (64,), (64, 1), (1, 1), (4, 2)])
def test_each_scaled_weight_has_its_scale(suffix: str, shape: tuple[int, ...]) -> None:
    tensors = {"a.weight": FP8, f"a.{suffix}": Tensor("F32", shape), "b.weight": Tensor("BF16", (2, 2))}

    assert weight_scales(tensors) == {"a.weight": f"a.{suffix}"}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a.weight": Tensor("U8", (64, 16)), "a.weight_scale_2": SCALAR}, "packed as NVFP4"),
        ({"a.weight": Tensor("U8", (64, 16)), "a.weight_scale": Tensor("F8_E4M3", (64, 2))}, "packed as NVFP4"),
        ({"a.weight": FP8, "a.weight_scale": Tensor("F8_E8M0", (64, 1))}, "packed as MXFP8"),
        ({"a.weight": Tensor("I8", (64, 32)), "a.weight_scale": SCALAR}, "packed as I8 with scales"),
        ({"a.weight": Tensor("I8", (64, 32))}, "stored as I8"),
        ({"a.weight": Tensor("U8", (64, 1)), "a.weight.absmax": SCALAR}, "4-bit (bitsandbytes)"),
        ({"a.weight": Tensor("I8", (64, 32)), "a.SCB": SCALAR}, "8-bit (bitsandbytes)"),
        ({"a.qweight": Tensor("I32", (64, 4)), "a.wscales": Tensor("BF16", (2, 64))}, "SVDQuant (Nunchaku)"),
        ({"a.qweight": Tensor("I32", (64, 4)), "a.qzeros": Tensor("I32", (2, 4))}, "GPTQ or AWQ"),
        ({"a.scale_weight": SCALAR}, "a.scale_weight is the scale of a weight that the file does not have"),
        ({"a.weight": FP8, "a.weight_scale": Tensor("F32", (63,))}, "a scale of shape [63] does not fit [64, 32]"),
        ({"a.weight": FP8, "a.weight_scale": Tensor("F32", (64, 2, 1))}, "does not fit"),
    ],
)
def test_another_packing_is_refused_by_its_name(tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(BadModel) as refused:
        weight_scales(tensors)

    assert words in refused.value.message


def test_a_folder_with_scales_is_refused_by_its_component() -> None:
    with pytest.raises(BadModel, match="transformer: its weights are fp8 with scales"):
        check_is_plain("transformer", {"a.weight": FP8, "a.weight_scale": SCALAR})
    with pytest.raises(BadModel, match="transformer: its weights are packed as NVFP4"):
        check_is_plain("transformer", {"a.weight_scale_2": SCALAR})

    check_is_plain("transformer", {"a.weight": FP8, "a.bias": Tensor("BF16", (64,))})


@pytest.mark.parametrize(
    ("size", "parts", "block"), [(7168, 56, 128), (576, 5, 128), (600, 5, 128), (64, 64, 1), (600, 1, 600)]
)
def test_blocks_are_a_power_of_two(size: int, parts: int, block: int) -> None:
    assert block_size(size, parts) == block
