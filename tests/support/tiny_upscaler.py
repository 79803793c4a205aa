"""A tiny upscaler with random weights: an RRDBNet, as ESRGAN and Real-ESRGAN have it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file


def save_upscaler(path: Path, *, scale: int = 4, prefix: str = "", seed: int = 0) -> Path:
    """prefix: of every tensor, as some trainers save them. Returns the path."""
    generator = torch.Generator().manual_seed(seed)
    features, growth = 8, 32  # ESRGAN's own growth; spandrel reads no other
    tensors: dict[str, torch.Tensor] = {}

    def convolution(name: str, n_in: int, n_out: int) -> None:
        bound = (n_in * 9) ** -0.5
        tensors[f"{name}.weight"] = torch.empty(n_out, n_in, 3, 3).uniform_(-bound, bound, generator=generator)
        tensors[f"{name}.bias"] = torch.empty(n_out).uniform_(-bound, bound, generator=generator) + 0.1

    convolution("model.0", 3, features)
    for block in range(2):
        for dense in range(1, 4):
            for i in range(5):
                n_out = features if i == 4 else growth
                convolution(f"model.1.sub.{block}.RDB{dense}.conv{i + 1}.0", features + i * growth, n_out)
    convolution("model.1.sub.2", features, features)
    n_doublings = scale.bit_length() - 1
    for doubling in range(n_doublings):
        convolution(f"model.{3 * (doubling + 1)}", features, features)
    convolution(f"model.{3 * n_doublings + 2}", features, features)
    convolution(f"model.{3 * n_doublings + 4}", features, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return path
