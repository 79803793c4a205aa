"""A layer in eight bits computes what the original computes, within the rounding of its format, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.quantized.eight_bit_linear import EightBitLinear, Kind

ROUNDING: dict[Kind, float] = {"fp8": 0.045, "int8": 0.015}  # relative L2, of normal weights and inputs


def linear(n_inputs: int = 256, n_outputs: int = 128, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n_inputs, n_outputs, bias=bias).eval().requires_grad_(False)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_the_output_differs_by_rounding_alone_and_keeps_shape_and_dtype(kind: Kind, dtype: torch.dtype) -> None:
    original = linear().to(dtype)
    inputs = torch.randn(2, 5, 256).to(dtype)

    output = EightBitLinear(original, kind, "cpu")(inputs)

    assert (output.shape, output.dtype) == ((2, 5, 128), dtype)
    assert 0 < distance(output, original(inputs)) < ROUNDING[kind]


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: Kind) -> None:
    layer = EightBitLinear(linear(), kind, "cpu")
    row = torch.randn(1, 256)

    beside_large_values = layer(torch.cat((row, 1000 * torch.randn(7, 256))))[:1]

    torch.testing.assert_close(beside_large_values, layer(row), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_a_row_of_zeros_gives_the_bias_and_no_row_is_no_error(kind: Kind) -> None:
    original = linear()
    layer = EightBitLinear(original, kind, "cpu")

    assert torch.equal(layer(torch.zeros(1, 256))[0], original.bias)
    assert layer(torch.zeros(0, 256)).shape == (0, 128)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_very_small_and_very_large_values_are_scaled_and_none_becomes_infinite(kind: Kind, scale: float) -> None:
    original = linear(bias=False).to(torch.bfloat16)
    inputs = (scale * torch.randn(4, 256)).to(torch.bfloat16)

    output = EightBitLinear(original, kind, "cpu")(inputs)

    assert distance(output, original(inputs)) < ROUNDING[kind]


def test_its_tensors_take_half_of_bfloat16_and_are_plain_ones() -> None:
    layer = EightBitLinear(linear(bias=False).to(torch.bfloat16), "int8", "cpu")
    tensors = [*layer.parameters(), *layer.buffers()]

    assert sum(tensor.nbytes for tensor in tensors) == 128 * 256 + 4 * 128
    assert all(type(tensor.data) is torch.Tensor for tensor in tensors)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns about many things
@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_it_compiles_into_one_graph_for_all_numbers_of_rows(kind: Kind) -> None:
    layer = EightBitLinear(linear(), kind, "cpu")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)

    for n_rows in (3, 9):
        inputs = torch.randn(n_rows, 256)
        torch.testing.assert_close(compiled(inputs), layer(inputs))
    torch._dynamo.reset()
