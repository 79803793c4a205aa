"""How a language model decodes: by transformers' own batch, or by decode steps with static buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pipelines.chat.long_rope import long_rope_of

# Starts to compile for some tasks beside the device thread: see `step_compiler.Preparation`.
Prepare: TypeAlias = Callable[[Sequence[Any]], Any]
SERVED = {"full_attention", "sliding_attention"}  # kinds of layers


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """static: see `steps.DecodeSteps`; without it, the other fields mean nothing."""

    static: bool = False
    graphs: bool = True  # on CUDA
    compile: Prepare | None = None  # the layers run compiled once that is done; None: as written
    joins: bool = True  # layers that read the same are one matrix product: see `joined.py`
    lookahead: bool = True  # launch the next forward before the host has seen the tokens of the last
    capture_s: float = 60.0  # no further graph is recorded after this time; its rows run in the next wider one


def not_static(model: Any) -> str:
    """Why static decode steps cannot serve this model, or nothing."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - SERVED
    if kinds:
        return f"not all of its layers attend to tokens one by one ({', '.join(sorted(map(str, kinds)))})"
    if getattr(config, "num_kv_shared_layers", None):
        return "some of its layers use the keys and values of other layers"
    ropes = _rope_types(getattr(config, "rope_parameters", None) or {})
    if "dynamic" in ropes or ("longrope" in ropes and long_rope_of(model) is None):
        return f"its rotary embedding depends on the longest text in the batch ({', '.join(sorted(ropes))})"
    return ""


def _rope_types(parameters: Mapping[str, Any]) -> set[str]:
    """parameters: of all layers, or of each kind of layers."""
    nested = (each for each in parameters.values() if isinstance(each, Mapping))
    return {str(parameters.get("rope_type", "default"))}.union(*map(_rope_types, nested))
