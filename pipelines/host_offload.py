"""Counts which component holds which bytes on the device, and moves components to host memory and back.

Device thread only. The tensors of a parked component are in pinned host memory, so they come back by a copy and not by
a disk read. A tensor that several components share is counted for the first of them that is on the device, and leaves
with the last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines import device


@dataclass(slots=True)
class Storage:
    """One piece of memory, and all parameters and buffers that use it."""

    tensors: list[torch.Tensor]
    owners: list[str]  # names of components, in their order
    n_bytes: int
    parkable: bool


class HostOffload:
    def __init__(self, components: Iterable[tuple[str, torch.nn.Module]], device_name: str) -> None:
        """components: (name, module). On a device without memory of its own nothing moves."""
        self._device = device_name
        self._components = list(components)
        self._parked: set[str] = set()
        self._staying: set[str] = set()  # components that are never parked
        self.refresh()

    def add(self, name: str, module: torch.nn.Module, *, stays: bool = False) -> None:
        """Count one more component, whose weights are on the device.

        stays: it is never parked, because forwards of other components use its weights.
        """
        self._components.append((name, module))
        self._staying |= {name} if stays else set()
        self.refresh()

    def remove(self, name: str) -> None:
        """Count this component no more; its memory is free once nobody holds its module."""
        self._components = [(other, module) for other, module in self._components if other != name]
        self._parked.discard(name)
        self._staying.discard(name)
        self.refresh()

    def refresh(self) -> None:
        """Collect the weights again, after adapters were loaded or dropped. Those of parked components stay parked."""
        on_host_counts = self._device.startswith("cpu")
        self._storages = _storages(self._components, on_host_counts=on_host_counts, parked=self._parked)
        self._names = list(dict.fromkeys(owner for storage in self._storages for owner in storage.owners))

    @property
    def components(self) -> Mapping[str, int]:
        n_bytes = {name: 0 for name in self._names if name not in self._parked}
        for storage in self._storages:
            present = [owner for owner in storage.owners if owner not in self._parked]
            if present:
                n_bytes[present[0]] += storage.n_bytes
        return n_bytes

    @property
    def parked(self) -> Mapping[str, int]:
        n_bytes = {name: 0 for name in self._names if name in self._parked}
        for storage in self._on_host():
            n_bytes[storage.owners[0]] += storage.n_bytes
        return n_bytes

    def park(self, names: Sequence[str]) -> int:
        """Move components to host memory; returns the bytes freed. Nothing moves when the host lacks the memory."""
        leaving = {name for name in names if name in self._names and name not in self._parked | self._staying}
        if not leaving or not device.has_own_memory(self._device):
            return 0
        leaving = {name for name in leaving if all(s.parkable for s in self._storages if name in s.owners)}
        storages = [storage for storage in self._storages if self._leaves(storage, leaving)]
        n_bytes = sum(storage.n_bytes for storage in storages)
        if n_bytes + device.HOST_MARGIN_BYTES > device.host_free_bytes():
            return 0
        try:
            copies = [device.to_host(storage.tensors[0]) for storage in storages]
        except Exception as error:  # e.g. the system's limit on pinned memory
            if not device.is_out_of_memory(error):
                raise
            return 0
        for storage, copy in zip(storages, copies, strict=True):
            _move(storage, copy)
        self._parked |= leaving
        device.release_cache()
        return n_bytes

    def unpark(self, names: Sequence[str]) -> int:
        """Bring components back; returns the bytes taken. Raises an out-of-memory error with all still parked."""
        returning = self._parked & set(names)
        storages = [storage for storage in self._on_host() if returning & set(storage.owners)]
        copies = [storage.tensors[0].to(self._device, non_blocking=True) for storage in storages]
        for storage, copy in zip(storages, copies, strict=True):
            _move(storage, copy)
        self._parked -= returning
        device.finish(
            self._device
        )  # before a stream of another priority reads the tensors, or the host copies are freed
        return sum(storage.n_bytes for storage in storages)

    def _on_host(self) -> list[Storage]:
        return [storage for storage in self._storages if self._parked.issuperset(storage.owners)]

    def _leaves(self, storage: Storage, leaving: set[str]) -> bool:
        """Whether parking the components `leaving` frees the storage."""
        return not self._parked.issuperset(storage.owners) and (self._parked | leaving).issuperset(storage.owners)


def _storages(
    components: Iterable[tuple[str, torch.nn.Module]], *, on_host_counts: bool, parked: Collection[str]
) -> list[Storage]:
    """The components' memory. Weights that stay in host memory until they are used (group offload) count 0 bytes."""
    found: dict[Any, Storage] = {}
    for name, module in components:
        for tensor in (*module.parameters(), *module.buffers()):
            is_plain = (
                type(tensor.data) is torch.Tensor
            )  # a quantized tensor wraps others, whose memory is the real one
            address = tensor.data_ptr() if is_plain else id(tensor)
            counts = on_host_counts or name in parked or tensor.device.type != "cpu"
            new = Storage([], [], tensor.nbytes if counts else 0, is_plain and counts)
            storage = found.setdefault((address, tensor.shape, tensor.dtype), new)
            if not any(tensor is other for other in storage.tensors):
                storage.tensors.append(tensor)
            if name not in storage.owners:
                storage.owners.append(name)
    return list(found.values())


def _move(storage: Storage, data: torch.Tensor) -> None:
    for tensor in storage.tensors:
        tensor.data = data
