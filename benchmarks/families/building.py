"""Helpers that build small pipelines: networks of small default sizes, and components under diffusers' names."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

Encoder = tuple[Any, Any]  # a text encoder and its tokenizer

USUAL = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
}
T5_CALL = {"max_sequence_length": 32}


def small(cls: type, **sizes: Any) -> Any:
    """Builds a network with these sizes and, for the other parameters that it takes, the usual ones."""
    takes = inspect.signature(cls.__init__).parameters
    return cls(**{name: size for name, size in USUAL.items() if name in takes} | sizes)


def like(model: Any, **changes: Any) -> Any:
    """Builds a network like this one but with these sizes, and with new weights."""
    sizes = {name: size for name, size in model.config.items() if not name.startswith("_")}
    return type(model)(**{**sizes, **changes})


def components(transformer: Any, vae: Any, scheduler: Any, *encoders: Encoder, **more: Any) -> dict[str, Any]:
    """Returns the arguments of a pipeline's __init__, with the encoders after the first numbered as in diffusers."""
    found = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    for number, (encoder, tokenizer) in enumerate(encoders, 1):
        suffix = "" if number == 1 else f"_{number}"
        found |= {f"text_encoder{suffix}": encoder, f"tokenizer{suffix}": tokenizer}
    return found | more


def flow(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**options)
