"""Runs calls that can share one forward: proves first that merging is safe, and splits batches when memory is short.

Device thread only. A forward that runs out of memory is retried in this order: its halves, single calls, the single
call again with all cached memory released, a VAE decode in ever smaller tiles; then that call alone fails. Each retry
happens outside the `except` block, so that the failed frames have let go of their tensors.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipelines import device
from pipelines.batching.merging import Call, CallSignature, Structure, Unmergeable, bucket, generators_of, run_merged
from pipelines.batching.proof import rows_are_independent
from pipelines.batching.tiles import in_tiles
from pipelines.fault_points import reach
from pipelines.interface import Merging

RETRY_AFTER = 100  # forwards of a shape until a width that ran out of memory is tried again: memory may be free by then
MOST_HALVINGS = 2  # of the sides of tiles that do not fit either


@dataclass(frozen=True, slots=True)
class CallResult:
    """The output or error of one call, and how it ran."""

    output: Any = None
    error: BaseException | None = None
    width: int = 1  # of the forward that it ran in
    tiled: bool = False  # in tiles, because the memory did not suffice for more


class BatchedCalls:
    """Runs a model's calls, and learns which of them merge and at which width they fit."""

    def __init__(self, *, max_calls: int, merging: Merging, verdicts: Mapping[str, bool], salt: str) -> None:
        """verdicts: `verdicts` of an earlier instance for the same checkpoint. salt: what else a verdict depends on."""
        self._max_calls = max_calls
        self.enabled = merging != "off"  # whether calls may share forwards at all
        self._salt = salt
        self._verdicts = dict(verdicts)  # name of a call structure → proved to merge
        self._names: dict[Structure, str] = {}
        self._groups: Counter[str] = Counter()  # name → groups of calls that could have merged
        self._meetings: Counter[str] = Counter()  # "component.entry" → times several calls waited for it, alike or not
        # Shape of a call → (narrowest width that ran out of memory, forwards until that width is tried again).
        self._out_of_memory_at: dict[Hashable, tuple[int, int]] = {}
        self.out_of_memory_widths: list[int] = []  # widths that ran out of memory in the last `run`
        self.was_proof = False  # the last `run` was a proof

    @property
    def merging(self) -> Merging:
        """The verdict on the most frequent calls: those made at every step."""
        if not self.enabled:
            return "off"
        first = next(iter(self._verdicts), "").split(" ")[0]
        most = max(self._meetings, key=lambda entry: self._meetings[entry], default=first)
        names = [name for name in self._verdicts if name.split(" ")[0] == most]
        if not names:
            return "unproven"
        return "on" if self._verdicts[max(names, key=lambda name: self._groups[name])] else "off"

    @property
    def verdicts(self) -> dict[str, bool]:
        """Whether each call structure met so far merges, by "component.entry digest", most frequent first.

        The constructor of a later instance takes this.
        """
        return {name: self._verdicts[name] for name in sorted(self._verdicts, key=lambda name: -self._groups[name])}

    @property
    def salt(self) -> str:
        """What a verdict depends on besides the call. Under another salt each structure is proved anew."""
        return self._salt

    @salt.setter
    def salt(self, salt: str) -> None:
        if salt != self._salt:
            self._salt = salt
            self._names.clear()

    def note_meeting(self, call: Call) -> None:
        """Record that other calls wait for the same entry point as `call`."""
        self._meetings[f"{call.component}.{call.entry}"] += 1

    def choose_width(self, signature: CallSignature, count: int, limit: int | None) -> tuple[int, int]:
        """Return how many of `count` calls of this signature to run together, at most `limit`, and at which width."""
        if count > 1:  # counted also for structures that never merge: `merging` reports on the most frequent one
            self._groups[self._name(signature.structure)] += 1
        if count < 2 or not self._verdicts.get(self._name(signature.structure), True):
            return 1, 1
        narrowest, _ = self._out_of_memory_at.get(signature.shape, (2 * self._max_calls, 0))
        return bucket(count, max(1, min(self._max_calls, limit or self._max_calls, narrowest // 2)))

    def run(
        self, calls: list[Call], signature: CallSignature | None, width: int, tiled: bool = False
    ) -> list[CallResult]:
        """Run the calls; returns one result per call. tiled: a single decode is not tried whole, if it can be split."""
        self.out_of_memory_widths, self.was_proof = [], False
        calls[0].modes.restore()
        if signature is not None and len(calls) > 1:
            self._count_down_retry(signature)
            return self._run(calls, signature, width)
        if tiled and (result := _run_tiled(calls[0])) is not None:
            self.out_of_memory_widths += [] if result.error is None else [1]
            return [replace(result, tiled=True)]
        return [self._run_alone(calls[0])]

    def _run(self, calls: list[Call], signature: CallSignature, width: int) -> list[CallResult]:
        if len(calls) == 1:
            return [self._run_alone(calls[0])]
        name = self._name(signature.structure)
        if name not in self._verdicts:
            return self._prove(calls, signature, width)
        try:
            reach("merged forward", calls[0].entry, width)
            return [CallResult(output, width=width) for output in run_merged(calls, width)]
        except Unmergeable:
            self._verdicts[name] = False
        except Exception as error:  # stock code may raise anything; run in parts, each call gets its own error
            if device.is_fatal(error):
                raise
            if device.is_out_of_memory(error):
                self._note_out_of_memory(signature, width)
        # Outside the `except` block: the failed frames have let go of their tensors.
        device.release_cache()
        half = width // 2
        parts = [part for part in (calls[:half], calls[half:]) if part]
        return [result for part in parts for result in self._run(part, signature, _power_of_two(len(part)))]

    def _prove(self, calls: list[Call], signature: CallSignature, width: int) -> list[CallResult]:
        """Run the calls alone, and merged to compare. If the outputs agree, such calls merge from now on."""
        self.was_proof = True
        states = _generator_states(calls)
        results = [self._run_alone(call) for call in calls]
        if any(result.error is not None for result in results):
            return results  # proves nothing
        try:
            drew = states != _generator_states(calls)  # merged, calls would draw from one generator
            merges = not drew and rows_are_independent(calls, [r.output for r in results], width)
            self._verdicts[self._name(signature.structure)] = merges
        except Exception as error:
            if not device.is_out_of_memory(error):
                raise
            self._note_out_of_memory(signature, width)  # no verdict: the next proof is narrower
        return results

    def _run_alone(self, call: Call) -> CallResult:
        result = _attempt(call)
        if isinstance(result.error, NotImplementedError):
            return _run_tiled(call) or result
        if result.error is None or not device.is_out_of_memory(result.error):
            return result
        self.out_of_memory_widths.append(1)
        device.release_cache()
        result = _attempt(call)
        if result.error is None or not device.is_out_of_memory(result.error):
            return result
        device.release_cache()
        tiled = _run_tiled(call)
        return result if tiled is None else replace(tiled, tiled=True)

    def _note_out_of_memory(self, signature: CallSignature, width: int) -> None:
        self.out_of_memory_widths.append(width)
        self._out_of_memory_at[signature.shape] = (width, RETRY_AFTER)

    def _count_down_retry(self, signature: CallSignature) -> None:
        width, left = self._out_of_memory_at.pop(signature.shape, (0, 0))
        if left > 1:
            self._out_of_memory_at[signature.shape] = (width, left - 1)

    def _name(self, structure: Structure) -> str:
        """The name of a structure in the store, the same in every process."""
        name = self._names.get(structure)
        if name is None:
            digest = hashlib.blake2b(repr((self._salt, structure)).encode(), digest_size=8).hexdigest()
            name = self._names[structure] = f"{structure[0]}.{structure[1]} {digest}"
        return name


def _attempt(call: Call) -> CallResult:
    try:
        reach("forward", call.entry)
        return CallResult(call.run())
    except Exception as error:  # raised in the task that made the call
        if device.is_fatal(error):
            raise
        return CallResult(error=error.with_traceback(None) if device.is_out_of_memory(error) else error)


def _run_tiled(call: Call) -> CallResult | None:
    """Run one VAE decode in tiles, smaller ones where these do not fit. None: the call cannot be split.

    Allegro's VAE cannot decode in one piece at all.
    """
    vae: Any = getattr(call.function, "__self__", None)
    latents = next((value for value in (*call.args, *call.kwargs.values()) if isinstance(value, torch.Tensor)), None)
    if call.entry != "decode" or latents is None or not hasattr(vae, "enable_tiling"):
        return None
    result = None
    for halvings in range(MOST_HALVINGS + 1):
        try:
            with in_tiles(vae, latents, halvings):
                result = _attempt(call)
        except Exception as error:  # not every VAE with this method can tile
            if device.is_fatal(error):
                raise
            return None
        if result.error is None:
            return result
        if not device.is_out_of_memory(result.error):
            return None
        device.release_cache()
    return result


def _generator_states(calls: list[Call]) -> list[bytes]:
    return [bytes(generator.get_state().numpy()) for call in calls for generator in generators_of(call)]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
