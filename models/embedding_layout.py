"""What an embedding model does around its language model: prompts before, pooling and layers after. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DenseLayout:
    """A linear layer after the pooling."""

    folder: str  # inside the checkpoint
    n_inputs: int
    n_outputs: int
    has_bias: bool
    activation: str  # a class of torch.nn: "Tanh"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingLayout:
    dimensions: int  # of a vector
    pooling: tuple[str, ...]  # modes of pipelines.embedding.pooling, whose vectors are put side by side
    pools_prompt: bool = True  # whether the tokens of a prompt count in the pooling
    dense: tuple[DenseLayout, ...] = ()
    normalizes: bool = True  # vectors have length 1
    prompts: Mapping[str, str] = field(default_factory=dict)  # name → text before a client's text: "query": "query: "
    default_prompt: str | None = None  # name of the prompt that a request without one gets
    lower_cases: bool = False  # texts are read in lower case
    max_positions: int | None = None  # most tokens that the network has places for; None: no such limit
