"""What several families of transformers are put together from."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler

from benchmarks.families import parts

T5_CALL = {"max_sequence_length": 32}


def with_t5(transformer: Any, vae: Any, scheduler: Any, **changes: Any) -> dict[str, Any]:
    usual = {"text_encoder": parts.t5_text(), "tokenizer": parts.t5_tokenizer()}
    return {"transformer": transformer, "vae": vae, "scheduler": scheduler, **usual, **changes}


def flow(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**options)
