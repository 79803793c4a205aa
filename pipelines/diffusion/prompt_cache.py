"""What a pipeline's text encoders gave for a prompt, kept for the next job that says the same with another seed. Device thread only.

The stock `encode_prompt` of a request's own copy is dressed: asked again with equal arguments, by a request that differs in its seed
alone, it runs no text encoder, so that one that was parked stays so. Prompts of different owners share nothing: the time
to a first step would tell what others asked for.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pipelines import device
from pipelines.batching.rng_state import default_generators
from pipelines.interface import DiffusionRequest

LIMIT_BYTES = 16 << 20  # of one lane, on its device: little beside any model, and a dozen prompts of a large one
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


class PromptCache:
    def __init__(self, limit_bytes: int = LIMIT_BYTES, place: torch.device | None = None) -> None:
        """place: where the pipeline computes; None: on the CPU."""
        self._limit_bytes = limit_bytes
        self._generators = default_generators(place or torch.device("cpu"))
        self._kept: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()  # the least used first
        self.n_bytes = 0

    def dress(self, own: Any, request: DiffusionRequest) -> None:
        """`own`: the request's own copy of the pipeline."""
        encode = getattr(own, "encode_prompt", None)
        if encode is None:
            return
        asked = repr(replace(request, id="", seed=0, preview=False))  # `encode_prompt` may look at any of it

        @functools.wraps(encode)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            if not all(isinstance(leaf, _PLAIN) for leaf in pytree.tree_leaves((args, kwargs))):
                return encode(*args, **kwargs)  # pictures, embeddings
            key = asked, repr((args, kwargs))
            found = self._find(key)
            if found is not None:
                return found
            dice = [generator.get_state() for generator in self._generators]
            output = encode(*args, **kwargs)
            if all(map(torch.equal, dice, (generator.get_state() for generator in self._generators))):
                self._keep(key, output)  # else the seed had a part in it
            return output

        vars(own)["encode_prompt"] = encode_prompt

    def _find(self, key: tuple[str, str]) -> Any | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return _copied(self._kept[key][0])

    def _keep(self, key: tuple[str, str], output: Any) -> None:
        leaves = pytree.tree_leaves(output)
        if not all(isinstance(leaf, (torch.Tensor, *_PLAIN)) for leaf in leaves):
            return
        n_bytes = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        if n_bytes > self._limit_bytes:
            return
        copy = _copied(output)
        if copy is None:
            return
        _, before = self._kept.pop(key, (None, 0))
        self._kept[key] = copy, n_bytes
        self.n_bytes += n_bytes - before
        while self.n_bytes > self._limit_bytes:
            _, (_, gone) = self._kept.popitem(last=False)
            self.n_bytes -= gone


def _copied(output: Any) -> Any | None:
    """Stock code may write to what it is given, and a row of a merged forward holds the others' memory.

    None when there is no memory for a copy: a job must not fail for what is kept for others.
    """
    try:
        return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.clone(), output)
    except Exception as error:
        if not device.is_out_of_memory(error):
            raise
        return None
