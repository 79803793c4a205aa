"""Lets a long forward be preempted: before each repeated block of a network, or before each of its layers.

Device thread only. A forward runs in a greenlet of its own. A hook at each yield point asks whether other work waits
for the device; if so, the hook suspends the greenlet and the lane's step ends there. The next step resumes the forward.
A hook costs a few microseconds, so layers get one only in networks whose blocks turned out to take long.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import greenlet
from torch import nn

from pipelines.batching import torch_modes
from pipelines.interface import never_yield

MIN_INTERVAL_S = 0.001  # a layer that follows the last check sooner does not check: small layers take microseconds
LONG_INTERVAL_S = 0.01  # between two yield points; a person does not notice this much between two words
LONG_FORWARDS = 4  # consecutive forwards with a long interval before layers get hooks: one may be the machine's doing
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.GroupNorm)


class PreemptibleForward(greenlet.greenlet):
    """One forward under way. Each step that resumes it sets `should_yield` first."""

    def __init__(self, body: Callable[[], Any]) -> None:
        super().__init__(body)
        self.should_yield: Callable[[], bool] = never_yield
        self.longest_interval_s = 0.0  # so far, between two yield points
        self._since = time.perf_counter()

    def at_block(self) -> None:
        self.end_interval()
        if self.should_yield():
            self.pause()

    def at_layer(self) -> None:
        if time.perf_counter() - self._since >= MIN_INTERVAL_S:
            self.at_block()

    def end_interval(self) -> None:
        """Record the time since the last yield point; the end of the forward counts as one too."""
        now = time.perf_counter()
        self.longest_interval_s = max(self.longest_interval_s, now - self._since)
        self._since = now

    def pause(self) -> None:
        """Return control to the step that runs this forward, until a later step resumes it."""
        modes = torch_modes.current()
        self.parent.switch()
        modes.restore()
        self._since = time.perf_counter()


class YieldPoints:
    """The hooks on one module at which its forwards can be preempted."""

    def __init__(self, module: nn.Module, *, every_layer: bool = False, may_add_layers: bool = False) -> None:
        """every_layer: hook layers instead of blocks. may_add_layers: do so once blocks turn out to take long."""
        self._module = module
        self._may_add_layers = may_add_layers and not every_layer
        self._long_forwards = 0  # consecutive forwards with a long interval
        modules, hook = (layers(module), _at_layer) if every_layer else (repeated_blocks(module), _at_block)
        self._hooks = {id(each): each.register_forward_pre_hook(hook) for each in modules}

    def forward_ended(self, longest_interval_s: float) -> None:
        if not self._may_add_layers:
            return
        self._long_forwards = self._long_forwards + 1 if longest_interval_s > LONG_INTERVAL_S else 0
        if self._long_forwards == LONG_FORWARDS:
            self._may_add_layers = False
            self.remove()
            self._hooks = {id(layer): layer.register_forward_pre_hook(_at_layer) for layer in layers(self._module)}

    def keep_whole(self, blocks: Iterable[nn.Module]) -> None:
        """Remove the yield points inside these blocks, and add none to the module's layers."""
        inside = {id(layer) for block in blocks for layer in block.modules() if layer is not block}
        if inside.isdisjoint(map(id, self._module.modules())):
            return
        self._may_add_layers = False
        for module_id in inside & self._hooks.keys():
            self._hooks.pop(module_id).remove()

    def remove(self) -> None:
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that may take long in a single kernel. Attention itself and activations are not interrupted."""
    return (layer for layer in module.modules() if isinstance(layer, LAYERS))


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The modules of which a ModuleList holds several of one class, such as transformer or residual blocks.

    Single layers do not count.
    """
    seen: set[int] = set()
    for blocks in module.modules():
        if not isinstance(blocks, nn.ModuleList):
            continue
        counts = Counter(type(block) for block in blocks)
        for block in blocks:
            if counts[type(block)] > 1 and id(block) not in seen and next(block.children(), None) is not None:
                seen.add(id(block))
                yield block


def _at_block(module: nn.Module, args: Any) -> None:
    forward = greenlet.getcurrent()
    if isinstance(forward, PreemptibleForward):  # code outside a lane's step may call the module too
        forward.at_block()


def _at_layer(module: nn.Module, args: Any) -> None:
    forward = greenlet.getcurrent()
    if isinstance(forward, PreemptibleForward):
        forward.at_layer()


def other_work_waits() -> bool:
    """Whether the forward that calls this would be preempted at a yield point now."""
    forward = greenlet.getcurrent()
    return isinstance(forward, PreemptibleForward) and forward.should_yield()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within this context, the forward that entered it is not preempted."""
    forward = greenlet.getcurrent()
    if not isinstance(forward, PreemptibleForward):
        yield
        return
    before, forward.should_yield = forward.should_yield, never_yield
    try:
        yield
    finally:
        forward.should_yield = before


def is_yield_point(hook: object) -> bool:
    return hook in (_at_block, _at_layer)
