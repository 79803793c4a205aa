"""Tests, when a language model is loaded, whether the paged batch computes what the model computes alone.

Device thread only. Two sequences of different lengths, with tokens from all over the vocabulary, are read and continued
both ways with the same forced tokens, and the logits must agree. A model that raises or differs runs unbatched: slower
when several chats run, but right. Static decode steps, with attention of our own, are proven in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipelines import device
from pipelines.batching.merging import difference
from pipelines.chat.decode.options import DecodeOptions, not_static
from pipelines.chat.paged_batch import PagedBatch
from pipelines.chat.unbatched import SequentialBatch
from pipelines.interface import Merging
from pipelines.quantized.packed_linear import PackedLinear

LENGTHS = (9, 37)  # the second crosses a page of 32
N_STEPS = 3
CACHE_BYTES = 8 << 20  # increased until a page fits
# Largest difference, relative to the largest logit. A batch rounds in another order, and random weights amplify that.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 3e-2}


NOT_STATIC = "It decodes by transformers' own steps, which are slower: {}."


@dataclass(frozen=True, slots=True)
class Proof:
    merging: Merging  # "off": its sequences must not share forwards
    decode: DecodeOptions  # as wanted, or without static steps
    notes: tuple[str, ...] = ()  # why the decode steps are not as wanted


@torch.inference_mode()
def prove(model: Any, wanted: DecodeOptions = DecodeOptions()) -> Proof:  # noqa: B008  # immutable
    """Whether the model's logits in the paged batch, and in static decode steps, are those that it computes alone.

    Raises errors that prove nothing about the model: out of memory, or a lost device.
    """
    attention = model.config._attn_implementation
    try:
        alone = _logits(model, SequentialBatch)
        if not _agrees(model, alone, DecodeOptions()):
            return Proof("off", DecodeOptions())
        if wanted.static:
            reason = not_static(model)
            if not reason:
                for decode in (wanted, replace(wanted, joins=False)):
                    if _agrees(model, alone, replace(decode, graphs=False, compile=None, lookahead=False)):
                        return Proof("on", decode)
                reason = "its static steps compute something else"
            return Proof("on", DecodeOptions(), (NOT_STATIC.format(reason),))
        return Proof("on", wanted)
    except Exception as error:  # a model that raises any other error alone cannot be compared
        if device.is_fatal(error) or device.is_out_of_memory(error):
            raise
        return Proof("off", DecodeOptions())
    finally:
        model.set_attn_implementation(attention)  # the paged implementation does not run outside a batch


def shares_forwards_correctly(model: Any) -> bool:
    """See `prove`."""
    return prove(model).merging == "on"


def _agrees(model: Any, alone: Mapping[tuple[str, int], torch.Tensor], decode: DecodeOptions) -> bool:
    allowed = _tolerance(model)
    try:
        together = _logits(model, functools.partial(PagedBatch, decode=decode))
    except Exception as error:  # a model that raises any other error in the batch cannot be batched
        if device.is_fatal(error) or device.is_out_of_memory(error):
            raise
        return False
    return alone.keys() == together.keys() and all(difference(alone[k], together[k]) <= allowed for k in alone)


def _tolerance(model: Any) -> float:
    """Packed layers round what goes into them to bfloat16, in a model that is float32 otherwise."""
    is_packed = any(isinstance(module, PackedLinear) for module in model.modules())
    return TOLERANCE.get(torch.bfloat16 if is_packed else model.dtype, 0.0)


def _logits(model: Any, batch_class: Callable[..., Any]) -> dict[tuple[str, int], torch.Tensor]:
    """(sequence, index of the new token) → its logits."""
    seen: dict[tuple[str, int], torch.Tensor] = {}
    counts: dict[str, int] = {}
    vocabulary = model.config.get_text_config().vocab_size

    def sampler(ids: Any, logits: torch.Tensor) -> torch.Tensor:
        for row, name in enumerate(ids):
            counts[name] = counts.get(name, -1) + 1
            seen[name, counts[name]] = logits[row].clone()
        forced = [(counts[name] * 7919 + 5) % vocabulary for name in ids]
        return torch.tensor(forced, device=logits.device)

    batch = _smallest(model, batch_class, sampler)
    for length in LENGTHS:
        batch.add(str(length), [(i * 104_729 + length) % vocabulary for i in range(length)])
    while any(counts.get(str(length), -1) < N_STEPS for length in LENGTHS):
        for name in batch.step().tokens:
            if counts[name] == N_STEPS:
                batch.remove(name)
    return seen


def _smallest(model: Any, batch_class: Callable[..., Any], sampler: Any) -> Any:
    n_bytes = CACHE_BYTES
    while True:
        try:
            return batch_class(model, cache_bytes=n_bytes, max_rows=len(LENGTHS), sampler=sampler)
        except ValueError:
            n_bytes *= 4
            if n_bytes > CACHE_BYTES << 10:
                raise
