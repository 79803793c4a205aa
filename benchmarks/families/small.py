"""What the families repeat: the usual small sizes, and the names that pipelines give their parts."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

Reader = tuple[Any, Any]  # a text encoder and its tokenizer

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
    """A network of `cls`: the sizes given, and of the usual ones those that it takes."""
    takes = inspect.signature(cls.__init__).parameters
    return cls(**{name: size for name, size in USUAL.items() if name in takes} | sizes)


def whole(transformer: Any, vae: Any, scheduler: Any, *readers: Reader, **more: Any) -> dict[str, Any]:
    """The arguments of a pipeline's __init__; each reader after the first carries its number, as in all of diffusers."""
    found = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    for number, (encoder, tokenizer) in enumerate(readers, 1):
        suffix = "" if number == 1 else f"_{number}"
        found |= {f"text_encoder{suffix}": encoder, f"tokenizer{suffix}": tokenizer}
    return found | more


def flow(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**options)
