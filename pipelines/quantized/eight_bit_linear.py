"""Linear layers whose matrix multiplication runs in eight bits, fp8 or int8. Device thread only.

The weight is stored with one scale for each output, and each row of the input is quantized with a scale of its own
while the layer runs. Rows therefore do not depend on each other, so that a merged forward gives each job what it would
get alone. All tensors are plain ones: they are counted, parked and compiled like those of any other layer.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from pipelines.device import is_fatal

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["fp8", "int8"]

FP8 = torch.float8_e4m3fn
LARGEST = {"fp8": 448.0, "int8": 127.0}  # the largest value of each format
SMALLEST_SCALE = 1e-12  # of a row of zeros
MULTIPLE = 16  # the kernels take matrices whose sides are multiples of this
INT8_LEAST_ROWS = 17  # torch._int_mm on CUDA takes no fewer


class EightBitLinear(nn.Linear):
    """Computes what `linear` computes, in eight bits, with the input and output dtype of the original layer.

    It is a `nn.Linear`, so that peft puts LoRAs on it: their layers add to its output in their own precision. `weight`
    has the dtype int8 for both formats (fp8 is viewed as int8), because libraries cast inputs and adapters to the dtype
    of a weight that is a float.
    """

    weight_scale: torch.Tensor  # (1, outputs), float32

    def __init__(self, linear: nn.Linear, kind: Kind, device: torch.device | str) -> None:
        """The weight is quantized on `device`, and stays there. `linear` keeps its own."""
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.kind = linear.in_features, linear.out_features, kind
        stored, scale = quantized_rows(linear.weight.detach().to(device).float(), kind)
        stored = stored.view(torch.int8)
        self.weight = nn.Parameter(stored, requires_grad=False)
        bias = linear.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(device), requires_grad=False)
        self.register_buffer("weight_scale", scale.t().contiguous())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, self.in_features)
        matmul = _fp8_matmul if self.kind == "fp8" else _int8_matmul
        output = matmul(rows, self.weight, self.weight_scale, self.bias)
        return output.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.kind}"


def quantized_rows(rows: torch.Tensor, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the rows in eight bits and the scale of each, float32 (rows, 1): a row is its integers times its scale.

    bfloat16 rows are multiplied in bfloat16: that rounds them by 2⁻⁹, far below the 2⁻⁴ of fp8, and takes half the
    memory traffic. Nothing is clamped, because no product reaches the value that fp8 rounds to NaN (464).
    """
    if rows.is_cuda and not torch.compiler.is_compiling() and (fused := _one_kernel(rows.device)) is not None:
        return fused(rows, FP8 if kind == "fp8" else torch.int8, LARGEST[kind], SMALLEST_SCALE)
    largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, keepdim=True).float()
    inverse = LARGEST[kind] / largest.clamp(min=SMALLEST_SCALE * LARGEST[kind])
    if rows.dtype == torch.bfloat16 and kind == "fp8":
        factor = inverse.to(torch.bfloat16)
        return (rows * factor).to(FP8), factor.float().reciprocal()
    scaled = rows * inverse
    return (scaled.to(FP8) if kind == "fp8" else scaled.round().to(torch.int8)), inverse.reciprocal()


@functools.cache
def _one_kernel(device: torch.device) -> Callable[..., tuple[torch.Tensor, torch.Tensor]] | None:
    """Returns the function that does it in one kernel, once it has given what torch gives; None where it does not."""
    try:
        from pipelines.quantized.triton_rows import quantize

        trial = torch.randn(3, 528, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
        for dtype, largest in ((FP8, LARGEST["fp8"]), (torch.int8, LARGEST["int8"])):
            values, scale = quantize(trial, dtype, largest, SMALLEST_SCALE)
            if not torch.allclose(values.float() * scale, trial.float(), rtol=0.07, atol=0.02):
                raise ValueError(f"the kernel rounds {dtype} by too much")
    except Exception as error:  # a compiler or a driver that Triton does not work with
        if is_fatal(error):
            raise
        logger.warning("rows are quantized without Triton", exc_info=True)
        return None
    return quantize


def _fp8_matmul(
    rows: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    values, scale = quantized_rows(rows, "fp8")
    if not rows.is_cuda:  # what the kernel computes; torch 2.11 has none for a scale per row on a CPU
        exact = functional.linear(values.float() * scale, weight.view(FP8).float() * weight_scale.t())
        return _with_bias(exact.to(rows.dtype), bias)
    # The kernel writes bfloat16 alone, and adds only a bias of that dtype.
    fused = bias if bias is not None and bias.dtype == torch.bfloat16 else None
    output = torch._scaled_mm(
        values,
        weight.view(FP8).t(),
        scale_a=scale,
        scale_b=weight_scale,
        bias=fused,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    ).to(rows.dtype)
    return output if fused is not None else _with_bias(output, bias)


def _int8_matmul(
    rows: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    values, scale = quantized_rows(rows, "int8")
    n_rows = rows.shape[0]
    if rows.is_cuda and n_rows < INT8_LEAST_ROWS:
        values = functional.pad(values, (0, 0, 0, INT8_LEAST_ROWS - n_rows))
    sums = torch._int_mm(values, weight.t())[:n_rows]
    return _with_bias((sums * scale * weight_scale).to(rows.dtype), bias)


def _with_bias(output: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return output if bias is None else output + bias.to(output.dtype)
