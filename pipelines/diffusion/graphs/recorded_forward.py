"""One recorded forward: its arguments have memory of their own, into which each call copies what it is given.

Device thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pipelines import device
from pipelines.batching.rng_state import default_generators
from pipelines.cuda_graphs import CaptureFailed
from pipelines.diffusion.graphs.outside_tensors import read_outside

_PLAIN = (bool, int, float, str, type(None))


class Pool(Protocol):
    """What records work, and the memory that recordings share. See `pipelines.cuda_graphs.GraphPool`."""

    n_bytes: int

    def record(self, work: Callable[[], None]) -> Callable[[], None]: ...


class Buffer:
    """The memory of one argument. Where the argument repeats a value along a dimension, so does the buffer."""

    def __init__(self, like: torch.Tensor) -> None:
        repeated = [stride == 0 and size > 1 for size, stride in zip(like.shape, like.stride(), strict=True)]
        self._index = tuple(slice(0, 1) if each else slice(None) for each in repeated)
        shape = [1 if each else size for size, each in zip(like.shape, repeated, strict=True)]
        self.memory = torch.empty_strided(shape, like.stride(), dtype=like.dtype, device=like.device)
        self.whole = self.memory.expand(like.shape)

    def fill(self, value: torch.Tensor) -> None:
        self.memory.copy_(value[self._index])


class RecordedForward:
    """Serves all calls that have the key of the call that it was made from."""

    def __init__(
        self,
        module: nn.Module,
        run: Callable[..., Any],
        as_written: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        pool: Pool,
        *,
        device_name: str,
        most_bytes: int,
    ) -> None:
        """run: the forward of `module`. as_written: the same, with no compiled code in it.

        Takes the time of some six forwards. Raises `CaptureFailed`, and whatever the forward raises.
        """
        self._module, self._run, self._device_name = module, run, device_name
        leaves, structure = pytree.tree_flatten((args, dict(kwargs)))
        self._buffers = {i: Buffer(leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)}
        static = [self._buffers[i].whole if i in self._buffers else leaf for i, leaf in enumerate(leaves)]
        self._args, self._kwargs = pytree.tree_unflatten(static, structure)
        self._addresses = _addresses(module)
        self._fill(leaves)
        self._outside = self._look_at(as_written)
        expected, peak_bytes = self._measured()
        if peak_bytes - pool.n_bytes > most_bytes:
            needed, allowed = (f"{each / 2**30:.1f}" for each in (peak_bytes, most_bytes))
            raise CaptureFailed(f"it needs {needed} GiB, and at most {allowed} GiB may be kept for it")
        device.finish(device_name)  # the recording is made on a stream of its own
        self.output: Any = None
        self._replay = pool.record(self._work)
        # A replay writes its output where the recording did.
        self._output, self._output_structure = pytree.tree_flatten(self.output)
        for leaf in self._output:
            if not isinstance(leaf, (torch.Tensor, *_PLAIN)):
                raise CaptureFailed(f"it returns a {type(leaf).__name__}")
        self._replay()
        if not self._returned(expected):
            raise CaptureFailed("a recording of it computes something else")

    @property
    def n_bytes(self) -> int:
        """Of the memory of its arguments. That of the recording is in the pool."""
        return sum(buffer.memory.nbytes for buffer in self._buffers.values())

    @property
    def is_stale(self) -> bool:
        """Whether weights of the module have been replaced, or are elsewhere than they were."""
        return _addresses(self._module) != self._addresses

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        self._fill(pytree.tree_leaves((args, dict(kwargs))))
        self._replay()
        # Copies, because the next replay writes there, and jobs keep what they get.
        copies = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in self._output]
        return pytree.tree_unflatten(copies, self._output_structure)

    def agrees(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], expected: Any) -> bool:
        """Whether a replay gives the very bits of `expected`. Waits for the device."""
        self._fill(pytree.tree_leaves((args, dict(kwargs))))
        self._replay()
        return self._returned(expected)

    def _fill(self, leaves: Sequence[Any]) -> None:
        for i, buffer in self._buffers.items():
            buffer.fill(leaves[i])

    def _work(self) -> None:
        self.output = self._run(*self._args, **self._kwargs)

    def _look_at(self, as_written: Callable[..., Any]) -> list[torch.Tensor]:
        """Run the forward once as written; returns the tensors of others that it reads.

        Raises `CaptureFailed` when it does something that a replay would not do.
        """
        generators = default_generators(torch.device(self._device_name))
        states = [generator.get_state() for generator in generators]
        written = [buffer.memory._version for buffer in self._buffers.values()]
        buffers = (buffer.memory for buffer in self._buffers.values())
        known = (*buffers, *self._module.parameters(), *self._module.buffers())
        outside = read_outside(lambda: as_written(*self._args, **self._kwargs), known)
        if any(not torch.equal(one.get_state(), state) for one, state in zip(generators, states, strict=True)):
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            raise CaptureFailed("it draws random numbers")
        if written != [buffer.memory._version for buffer in self._buffers.values()]:
            raise CaptureFailed("it writes to its arguments")
        return outside

    def _measured(self) -> tuple[Any, int]:
        """What the forward returns, and the most bytes that it needs; 0 where measuring them costs time."""
        if not self._device_name.startswith("cuda"):
            return self._run(*self._args, **self._kwargs), 0
        meter = device.PeakMeter(self._device_name)
        meter.resume()
        output = self._run(*self._args, **self._kwargs)
        meter.pause()
        return output, meter.peak_bytes

    def _returned(self, expected: Any) -> bool:
        leaves, structure = pytree.tree_flatten(expected)
        if structure != self._output_structure:
            return False
        return all(_same_bits(one, other) for one, other in zip(self._output, leaves, strict=True))


def _addresses(module: nn.Module) -> list[int]:
    """Of the weights of torch's own kind. A module with weights of another kind never has them replaced by a lane."""
    weights: Iterable[torch.Tensor] = (*module.parameters(), *module.buffers())
    return [each.data_ptr() for each in weights if type(each.data) is torch.Tensor]


def _same_bits(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(one) is type(other) and bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    # As integers, because of values that are not a number.
    return torch.equal(*(each.contiguous().flatten().view(torch.uint8) for each in (one, other)))
