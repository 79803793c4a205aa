"""How a language model decodes: by transformers' own batch, or by decode steps with static buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# What `torch.compile` makes faster kernels of: "layers" is one artefact for all layers; "model" is the whole forward,
# which takes longer to compile and also fuses what lies between the layers.
Compiled: TypeAlias = Literal["off", "layers", "model"]


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """static: see `steps.DecodeSteps`; without it, the other fields mean nothing."""

    static: bool = False
    graphs: bool = True  # on CUDA
    compiled: Compiled = "off"
    lookahead: bool = True  # launch the next forward before the host has seen the tokens of the last
    capture_s: float = 60.0  # no further graph is recorded after this time; its rows run in the next wider one
