"""Linear layers for a CPU whose weights are stored in eight bits, or in four where that loses nothing. Any thread.

A language model on a CPU works at the pace at which its weights come from memory, so narrower weights are faster in
proportion. Inputs are rounded to bfloat16, which torch's kernels take; all else of the model stays as it is. Weights
that were unpacked from a GGUF of the type Q4_1 or Q4_0 have at most 16 values in each group of 32 and keep them.
"""

from __future__ import annotations

import torch
from torch import nn

GROUP = 32  # values with one scale and one minimum, as in a GGUF
LEVELS = 15  # steps between the smallest and the largest value of a group, in four bits
MIDDLE = 8  # of the kernel's integers: a weight is (integer - 8) * scale + zero
EXACT = 1e-3  # relative L2 distance of weights that four bits keep; any others lose some 0.05
SMALLEST_SCALE = 1e-12  # of a group of equal values


class PackedLinear(nn.Linear):
    """Computes what `linear` computes, from a packed copy of its weight."""

    scales: torch.Tensor  # 4 bits: (inputs / GROUP, outputs, 2) scales and zeros, bfloat16; 8 bits: (outputs,) float32
    ones: torch.Tensor  # (outputs,) bfloat16: the kernel's own scales, which bfloat16 would round

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        four = _in_four_bits(weight)
        self.bits = 8 if four is None else 4
        packed, scales = _in_eight_bits(weight) if four is None else four
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scales", scales)
        self.register_buffer("ones", torch.ones(0 if self.bits == 4 else self.out_features, dtype=torch.bfloat16))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, self.in_features).to(torch.bfloat16)
        output: torch.Tensor
        if self.bits == 4:
            output = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, GROUP, self.scales).to(input.dtype)
        else:
            output = (torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.ones) * self.scales).to(input.dtype)
        if self.bias is not None:
            output = output + self.bias
        return output.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


def _in_four_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Returns the packed weight, with its scales and zeros; None when four bits do not hold it."""
    n_outputs, n_inputs = weight.shape
    if n_inputs % GROUP:
        return None
    groups = weight.view(n_outputs, n_inputs // GROUP, GROUP)
    least, most = groups.aminmax(dim=-1, keepdim=True)
    scale = ((most - least) / LEVELS).clamp(min=SMALLEST_SCALE)
    integers = ((groups - least) / scale).round_()
    if (integers * scale + least).sub_(groups).norm() > EXACT * groups.norm():
        return None
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers.view(n_outputs, n_inputs).int(), 1)
    scales_and_zeros = torch.cat((scale, least + MIDDLE * scale), dim=-1).transpose(0, 1)
    return packed, scales_and_zeros.to(torch.bfloat16).contiguous()


def _in_eight_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().amax(dim=-1).clamp(min=SMALLEST_SCALE) / 127
    return (weight / scale[:, None]).round_().to(torch.int8), scale
