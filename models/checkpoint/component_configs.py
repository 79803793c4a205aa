"""Typed look-ups in the config.json files of a pipeline's components. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from models.errors import BadModel

Config: TypeAlias = Mapping[str, object]
Configs: TypeAlias = Mapping[str, Config]  # component name → its config

MAX_HALVINGS = 16  # known VAEs have up to six


def positive_int(config: Config, key: str) -> int:
    """Returns 0 when the key is missing or its value is not a positive integer."""
    value = config.get(key)
    return value if type(value) is int and value > 0 else 0


def list_of(config: Config, key: str) -> list[object]:
    """Returns an empty list when the key is missing or its value is not a list."""
    value = config.get(key)
    return value if isinstance(value, list) else []


def halvings(config: Config, key: str) -> list[object]:
    """Returns a list with one entry for each stage of a network that halves its input; an empty list as `list_of`.

    Raises `BadModel` for more stages than any picture can be halved.
    """
    stages = list_of(config, key)
    if len(stages) > MAX_HALVINGS:
        raise BadModel(f"config.json: {key} has {len(stages)} entries, the limit is {MAX_HALVINGS}")
    return stages


def number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def vae_config(configs: Configs) -> Config:
    """Returns an empty config for a pipeline that has no VAE."""
    return next((configs[name] for name in ("vae", "movq", "vqvae", "vqgan") if name in configs), {})


def denoiser_config(configs: Configs) -> Config:
    return next((configs[name] for name in ("transformer", "unet", "prior", "decoder") if name in configs), {})
