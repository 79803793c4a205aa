"""Finds how many tokens, prompt and reply together, a language model was made for. Any thread; no torch.

Config classes of transformers disagree on the name of this number, and some models have none: with ALiBi positions
(MPT, Bloom) or a recurrent state (Mamba) nothing but the training bounds a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# The first that is there counts. Cohere's Command models also have max_position_embeddings, which is smaller and wrong.
NAMES = (
    "model_max_length",
    "max_position_embeddings",
    "n_positions",  # GPT-2, GPT-J, CodeGen
    "n_ctx",
    "max_seq_len",  # MPT, DBRX
    "max_seq_length",
    "max_sequence_length",
    "seq_length",  # Bloom, ChatGLM
    "seq_len",
    "context_length",
)
NO_LIMIT = 1 << 30  # transformers writes 1e30 where there is no limit
NESTED = ("text_config", "llm_config", "language_config")  # of a model that reads pictures too


def context_of(config: Any) -> int | None:
    """Returns the context length of a config object of transformers, None when it has none."""
    text_config = config.get_text_config()
    return _first(getattr(text_config, name, None) for name in NAMES)


def context_tokens(config: Mapping[str, object]) -> int | None:
    """Returns the context length in a config.json, None when it names none: its config class may have a default."""
    nested = (config.get(name) for name in NESTED)
    places = [config, *(each for each in nested if isinstance(each, dict))]
    return _first(place.get(name) for place in places for name in NAMES)


def _first(values: Iterable[object]) -> int | None:
    return next((value for value in values if type(value) is int and 0 < value < NO_LIMIT), None)
