"""Runs the repeated blocks of a denoiser compiled, where compiled code is ready, and as written everywhere else.

Device thread only. No job waits for a compiler. Forwards run as written at first, and the calls of their blocks are
described (`block_calls.py`). Once a job has ended, a worker process compiles for these calls and leaves the result in
the compiler's cache on disk (`compile_worker.py`). The next forward that makes such a call reads it from there, which
takes about a second. Calls of another kind than those compiled so far, such as the first merged ones, run as written
until the worker has been at them too.

A forward stays as written when its request is `deterministic`, because a request must give the same bits before and
after the compiler was done; when it wears LoRAs, whose weights would be compiled in; and while hooks are on layers
inside the blocks. A block whose compilation or compiled code fails runs as written for good.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from pipelines import device
from pipelines.block_calls import BlockCall, describe_call, kind_of_call, plain
from pipelines.compile_process import reason_of
from pipelines.diffusion.block_compiler import Backend, compiled_only, compiling, counting
from pipelines.diffusion.joined_products import noting_weights_apart
from pipelines.diffusion.weight_joiner import WeightJoiner

MOST_KINDS_OF_CALLS = 12  # compiled for one class of blocks; further kinds of calls run as written

logger = logging.getLogger(__name__)


class Preparation(Protocol):
    """Fills the compiler's cache on disk for some calls, beside the device thread."""

    def failures(self) -> Sequence[str] | None:
        """None: still at it. Then, for each call, why it could not be compiled; "" for success."""

    def stop(self) -> None: ...


Prepare = Callable[[Sequence[BlockCall]], Preparation]


@dataclass(slots=True)
class BlockClass:
    """The blocks of one class in a denoiser."""

    name: str
    wanted: dict[Hashable, BlockCall] = field(default_factory=dict)  # by kind of call; to be prepared
    prepared: set[Hashable] = field(default_factory=set)  # the next such call compiles, from the cache
    n_requested: int = 0  # kinds of calls wanted so far
    n_compiled: int = 0  # graphs
    failure: str = ""  # why its blocks run as written for good


@dataclass(slots=True)
class Block:
    module: nn.Module
    of: BlockClass
    as_written: Callable[..., Any]
    compiled: Callable[..., Any]  # runs compiled code that fits, else as written
    compiling: Callable[..., Any]  # compiles where none fits


class CompiledBlocks:
    def __init__(
        self, denoisers: Iterable[nn.Module], *, prepare: Prepare | None = None, backend: Backend = "inductor"
    ) -> None:
        """prepare: starts a preparation. None: the device thread itself compiles, after the first job."""
        self._prepare = prepare
        self._preparation: Preparation | None = None
        self._preparing: list[tuple[BlockClass, Hashable]] = []
        self._counts = counting(backend)
        self._joiner = WeightJoiner()
        self._allowed = False  # in the forward under way, or between forwards
        self._delayed = False  # a forward took longer because it compiled
        self._classes: list[BlockClass] = []
        self._blocks: list[Block] = []
        for denoiser in denoisers:
            self._add(denoiser, backend)
        self.refresh()

    def _add(self, denoiser: nn.Module, backend: Backend) -> None:
        classes: dict[str, BlockClass] = {}
        for module in denoiser.modules():
            name = type(module).__name__
            if name not in (getattr(denoiser, "_repeated_blocks", None) or ()):
                continue
            of = classes.setdefault(name, BlockClass(name))
            forward = module.forward
            block = Block(module, of, forward, compiled_only(forward), compiling(forward, backend))
            self._blocks.append(block)
            module.forward = functools.wraps(forward)(functools.partial(self._call, block))
        self._classes += classes.values()

    @property
    def modules(self) -> Sequence[nn.Module]:
        return [block.module for block in self._blocks]

    @property
    def notes(self) -> Sequence[str]:
        compiled = [f"{of.name} ({_counted(of.n_compiled)})" for of in self._classes if of.n_compiled]
        told = [f"Its blocks run compiled: {', '.join(compiled)}."] if compiled else []
        not_joined = {of.name: self._counts.not_joined.get(of.name, self._joiner.failure) for of in self._classes}
        told += [f"The matrix products of {name} are not joined: {why}." for name, why in not_joined.items() if why]
        return [*told, *(f"{of.name} runs as written: {of.failure}." for of in self._classes if of.failure)]

    @property
    def n_joined(self) -> int:
        """How often weights were put into one piece of memory, after they came back from the host included."""
        return self._joiner.n_joined

    @property
    def preparing(self) -> bool:
        """Whether a preparation is under way."""
        self._look_at_preparation()
        return self._preparation is not None

    @property
    def version(self) -> Hashable:
        """Another one whenever a forward may run other code than the last one did, or is to compile some."""
        self._look_at_preparation()
        return tuple((of.n_compiled, len(of.prepared), of.failure) for of in self._classes)

    def take_delay(self) -> bool:
        """Whether a forward since the last call took longer because it compiled."""
        delayed, self._delayed = self._delayed, False
        return delayed

    def refresh(self) -> None:
        """Look for the layers inside the blocks again, after adapters were loaded or dropped."""
        inside = [layer for block in self._blocks for layer in block.module.modules() if layer is not block.module]
        self._hooks = [hooks for layer in inside for hooks in (layer._forward_hooks, layer._forward_pre_hooks)]
        self._attributes = [vars(layer) for layer in inside]

    def wrap_forward(self, function: Callable[..., Any], *, allowed: bool) -> Callable[..., Any]:
        """`function`, a module's forward, in which compiled blocks may run. Else they run as written."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._look_at_preparation()
            self._allowed = allowed and not self._has_hooks_inside()
            try:
                return function(*args, **kwargs)
            finally:
                self._allowed = False
                self._joiner.release()

        return run

    def job_ended(self) -> None:
        """Start to prepare what the jobs so far wanted, unless a preparation is under way."""
        wanted = [(of, kind, call) for of in self._classes for kind, call in of.wanted.items()]
        if not wanted or self._preparation is not None:
            return
        for of in self._classes:
            of.wanted.clear()
        if self._prepare is None:
            for of, kind, _ in wanted:
                of.prepared.add(kind)
            return
        try:
            self._preparation = self._prepare([call for *_, call in wanted])
        except OSError as error:  # no process, or no room for its files
            self._fail_all((of for of, *_ in wanted), f"the compiler could not be started ({error})")
            return
        self._preparing = [(of, kind) for of, kind, _ in wanted]

    def close(self) -> None:
        """Give the blocks their own forwards back, and stop what is being prepared."""
        if self._preparation is not None:
            self._preparation.stop()
        for block in self._blocks:
            vars(block.module).pop("forward", None)
        self._blocks.clear()
        self._classes.clear()
        self.refresh()

    def _look_at_preparation(self) -> None:
        failures = self._preparation.failures() if self._preparation is not None else None
        if failures is None:
            return
        for (of, kind), failure in zip(self._preparing, failures, strict=True):
            if failure:
                self._fail_all([of], failure)
            else:
                of.prepared.add(kind)
        self._preparation, self._preparing = None, []

    def _fail_all(self, classes: Iterable[BlockClass], reason: str) -> None:
        for of in classes:
            if not of.failure:
                logger.warning("blocks run uncompiled", extra={"block": of.name, "reason": reason})
            of.failure = of.failure or reason
            of.wanted.clear()
            of.prepared.clear()

    def _has_hooks_inside(self) -> bool:
        """Whether anything but the layers' own code would run inside the blocks, such as hooks of a job."""
        registries = [attributes.get("_diffusers_hook") for attributes in self._attributes]
        return any(self._hooks) or any(registry.hooks for registry in registries if registry is not None)

    def _call(self, block: Block, *args: Any, **kwargs: Any) -> Any:
        of = block.of
        if not self._allowed or of.failure:
            return block.as_written(*args, **kwargs)
        args, kwargs = plain(args), {name: plain(value) for name, value in kwargs.items()}
        if of.prepared and (kind := kind_of_call(args, kwargs)) in of.prepared:
            of.prepared.discard(kind)
            return self._compile(block, args, kwargs)
        if not of.n_compiled:
            self._want(block, args, kwargs)
            return block.as_written(*args, **kwargs)
        n_runs = self._counts.n_runs
        output = self._or_as_written(block, block.compiled, args, kwargs)
        if self._counts.n_runs == n_runs:  # no compiled code fitted
            self._want(block, args, kwargs)
        return output

    def _compile(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        n_graphs = self._counts.n_graphs
        self._delayed = True
        try:
            return self._or_as_written(block, block.compiling, args, kwargs)
        finally:
            # No new graph: code for another kind of call fits, or another model of this class has compiled it before.
            block.of.n_compiled = max(1, block.of.n_compiled + self._counts.n_graphs - n_graphs)

    def _or_as_written(
        self, block: Block, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            with noting_weights_apart() as apart:
                output = function(*args, **kwargs)
        except Exception as error:  # of the compiler, of compiled code, or of the block itself
            if device.is_fatal(error) or device.is_out_of_memory(error):
                raise
            reason = reason_of(error)
        else:
            self._delayed |= self._joiner.join(apart)
            return output
        output = block.as_written(*args, **kwargs)  # raises when the block itself is at fault
        self._fail_all([block.of], reason)
        return output

    def _want(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Describe the call for the worker, unless one of its kind is with it."""
        of = block.of
        if of.n_requested >= MOST_KINDS_OF_CALLS:
            return
        kind = kind_of_call(args, kwargs)
        if kind in of.wanted or any(of is other and kind == known for other, known in self._preparing):
            return
        try:
            of.wanted[kind] = describe_call(block.module, args, kwargs)
        except Exception as error:  # weights of a kind that cannot be copied
            if device.is_fatal(error) or device.is_out_of_memory(error):
                raise
            self._fail_all([of], f"its weights cannot be described to the compiler ({type(error).__name__})")
            return
        of.n_requested += 1


def _counted(n_graphs: int) -> str:
    return "1 graph" if n_graphs == 1 else f"{n_graphs} graphs"
