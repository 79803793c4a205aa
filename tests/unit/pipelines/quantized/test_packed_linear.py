"""Packed weights of a CPU: four bits where the weights have no more, eight elsewhere, each row by itself."""

from __future__ import annotations

import torch
from torch import nn

from pipelines.quantized.packed_linear import GROUP, PackedLinear


def linear(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).eval().requires_grad_(False)
    layer.weight.copy_(weight)
    return layer


def four_bit_weight(n_outputs: int = 64, n_inputs: int = 128) -> torch.Tensor:
    """As a GGUF of the type Q4_1 is unpacked: a scale and a minimum in each group of 32."""
    torch.manual_seed(0)
    integers = torch.randint(0, 16, (n_outputs, n_inputs // GROUP, GROUP)).float()
    integers[..., 0], integers[..., 1] = 0, 15  # the smallest and the largest value of a group are its own
    scales, minima = torch.rand(n_outputs, n_inputs // GROUP, 1) + 0.1, -torch.rand(n_outputs, n_inputs // GROUP, 1)
    return (integers * scales + minima).view(n_outputs, n_inputs)


def distance(layer: nn.Module, original: nn.Module, inputs: torch.Tensor) -> float:
    expected = original(inputs)
    return float((layer(inputs) - expected).norm() / expected.norm())


def test_weights_of_four_bits_stay_four_bits_and_lose_only_the_rounding_of_their_scales() -> None:
    original = linear(four_bit_weight())
    packed = PackedLinear(original)

    assert (packed.bits, packed.weight.nbytes) == (4, 64 * 128 // 2)
    assert distance(packed, original, torch.randn(3, 128)) < 0.005


def test_other_weights_take_eight_bits() -> None:
    original = linear(torch.randn(64, 128))
    packed = PackedLinear(original)

    assert (packed.bits, packed.weight.nbytes) == (8, 64 * 128)
    assert distance(packed, original, torch.randn(3, 128)) < 0.015


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    for weight in (four_bit_weight(), torch.randn(64, 128)):
        packed = PackedLinear(linear(weight))
        rows = torch.randn(9, 128)

        assert torch.equal(packed(rows)[4:5], packed(rows[4:5]))


def test_the_output_has_the_shape_and_dtype_of_the_original() -> None:
    packed = PackedLinear(linear(four_bit_weight()))

    output = packed(torch.randn(2, 3, 128))

    assert (output.shape, output.dtype) == ((2, 3, 64), torch.float32)
