"""Which component holds which bytes on the device, and the way to host memory and back. Device thread only.

A parked component's tensors are in (pinned) host memory, so it comes back by a copy and not by a disk read. A tensor
that several components share is counted for the first of them that is on the device, and leaves with the last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines import device


@dataclass(slots=True)
class Held:
    """One piece of memory, and all the parameters and buffers that are it."""

    tensors: list[torch.Tensor]
    owners: list[str]  # components, in their order
    n_bytes: int
    parkable: bool


class HostOffload:
    def __init__(self, components: Iterable[tuple[str, torch.nn.Module]], device_name: str) -> None:
        """components: (name, module). On a device without memory of its own nothing moves."""
        self._device = device_name
        self._components = list(components)
        self._parked: set[str] = set()
        self.look()

    def look(self) -> None:
        """Gather the weights again: adapters came or went. Those of a parked component wait on the host with it."""
        on_host_counts = self._device.startswith("cpu")
        self._held = _gather(self._components, on_host_counts=on_host_counts, parked=self._parked)
        self._names = list(dict.fromkeys(owner for held in self._held for owner in held.owners))

    @property
    def components(self) -> Mapping[str, int]:
        held = {name: 0 for name in self._names if name not in self._parked}
        for piece in self._held:
            present = [owner for owner in piece.owners if owner not in self._parked]
            if present:
                held[present[0]] += piece.n_bytes
        return held

    @property
    def parked(self) -> Mapping[str, int]:
        away = {name: 0 for name in self._names if name in self._parked}
        for piece in self._away():
            away[piece.owners[0]] += piece.n_bytes
        return away

    def park(self, names: Sequence[str]) -> int:
        """Move components to host memory; returns the bytes freed. Nothing moves when the host lacks the memory."""
        going = {name for name in names if name in self._names and name not in self._parked}
        if not going or not device.has_own_memory(self._device):
            return 0
        going = {name for name in going if all(held.parkable for held in self._held if name in held.owners)}
        leaving = [piece for piece in self._held if self._leaves(piece, going)]
        n_bytes = sum(piece.n_bytes for piece in leaving)
        if n_bytes + device.HOST_MARGIN_BYTES > device.host_free_bytes():
            return 0
        try:
            copies = [device.to_host(piece.tensors[0]) for piece in leaving]
        except Exception as error:  # e.g. the system's limit on pinned memory
            if not device.is_out_of_memory(error):
                raise
            return 0
        for piece, copy in zip(leaving, copies, strict=True):
            _move(piece, copy)
        del copies
        self._parked |= going
        device.release_cache()
        return n_bytes

    def unpark(self, names: Sequence[str]) -> int:
        """Returns the bytes taken. Raises out of memory with all still parked."""
        coming = self._parked & set(names)
        arriving = [piece for piece in self._away() if coming & set(piece.owners)]
        copies = [piece.tensors[0].to(self._device, non_blocking=True) for piece in arriving]
        for piece, copy in zip(arriving, copies, strict=True):
            _move(piece, copy)
        self._parked -= coming
        device.finish(self._device)  # before a stream of another priority reads them, or the host's copies go
        return sum(piece.n_bytes for piece in arriving)

    def _away(self) -> list[Held]:
        return [piece for piece in self._held if self._parked.issuperset(piece.owners)]

    def _leaves(self, piece: Held, going: set[str]) -> bool:
        return not self._parked.issuperset(piece.owners) and (self._parked | going).issuperset(piece.owners)


def _gather(
    components: Iterable[tuple[str, torch.nn.Module]], *, on_host_counts: bool, parked: Collection[str]
) -> list[Held]:
    """Weights that are in host memory as long as they are not needed (group offload) hold nothing, and stay as they are."""
    found: dict[Any, Held] = {}
    for name, module in components:
        for tensor in (*module.parameters(), *module.buffers()):
            plain = type(tensor.data) is torch.Tensor  # a quantized tensor's bytes are not its own
            at = tensor.data_ptr() if plain else id(tensor)
            here = on_host_counts or name in parked or tensor.device.type != "cpu"
            fresh = Held([], [], tensor.nbytes if here else 0, plain and here)
            held = found.setdefault((at, tensor.shape, tensor.dtype), fresh)
            if not any(tensor is other for other in held.tensors):
                held.tensors.append(tensor)
            if name not in held.owners:
                held.owners.append(name)
    return list(found.values())


def _move(piece: Held, to: torch.Tensor) -> None:
    for tensor in piece.tensors:
        tensor.data = to
