"""Caches what a pipeline's text encoders return for a prompt, for the next job with the same prompt and another seed.

Device thread only. The stock `encode_prompt` of a request's own copy is wrapped. Called again with equal arguments, by
a request that differs in its seed alone, it runs no text encoder, so a parked one stays parked. Owners do not share
cached prompts: the time to the first step would reveal what others asked for.
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
from pipelines.diffusion_interface import DiffusionRequest

LIMIT_BYTES = 16 << 20  # of one lane, on its device: little next to any model, and a dozen prompts of a large one
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


class PromptCache:
    def __init__(self, limit_bytes: int = LIMIT_BYTES, device: torch.device | None = None) -> None:
        """device: where the pipeline computes; None: the CPU."""
        self._limit_bytes = limit_bytes
        self._generators = default_generators(device or torch.device("cpu"))
        self._kept: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()  # least recently used first
        self.n_bytes = 0

    def wrap(self, own: Any, request: DiffusionRequest) -> None:
        """Make `encode_prompt` of `own`, the request's copy of the pipeline, use this cache."""
        encode = getattr(own, "encode_prompt", None)
        if encode is None:
            return
        settings = repr(replace(request, id="", seed=0, preview=False))  # `encode_prompt` may depend on any of them

        @functools.wraps(encode)
        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            if not all(isinstance(leaf, _PLAIN) for leaf in pytree.tree_leaves((args, kwargs))):
                return encode(*args, **kwargs)  # given pictures or embeddings
            key = settings, repr((args, kwargs))
            found = self._find(key)
            if found is not None:
                return found
            before = [generator.get_state() for generator in self._generators]
            output = encode(*args, **kwargs)
            if all(map(torch.equal, before, (generator.get_state() for generator in self._generators))):
                self._keep(key, output)  # otherwise the output depends on the seed
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
        _, replaced_bytes = self._kept.pop(key, (None, 0))
        self._kept[key] = copy, n_bytes
        self.n_bytes += n_bytes - replaced_bytes
        while self.n_bytes > self._limit_bytes:
            _, (_, evicted_bytes) = self._kept.popitem(last=False)
            self.n_bytes -= evicted_bytes


def _copied(output: Any) -> Any | None:
    """A copy, because stock code may write to its input, and one row of a merged forward holds the memory of all rows.

    None when there is no memory for a copy: a job must not fail because of the cache.
    """
    try:
        return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.clone(), output)
    except Exception as error:
        if not device.is_out_of_memory(error):
            raise
        return None
