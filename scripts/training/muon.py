"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) in float32, for matrices and for convolutions.

torch.optim.Muon orthogonalizes its matrices in bfloat16, which many CPUs only emulate: that took 4 of a step's 5 s.
"""

import torch


class Muon(torch.optim.Optimizer):
    """Treats a weight as a matrix (out, in·taps). Scales the rate to AdamW's as Moonlight does (arXiv:2502.16982)."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                flat = weight.grad.lerp(mean, group["momentum"]).flatten(1)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                step = _orthogonal(flat).reshape(weight.shape)
                weight.add_(step, alpha=-group["lr"] * 0.2 * max(flat.shape) ** 0.5)


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Moves all singular values towards one by five Newton-Schulz steps."""
    transposed = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if transposed else matrix
    x = x / (x.norm() + 1e-8)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.T if transposed else x
