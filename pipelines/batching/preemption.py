"""Where a long forward can stop for a while: before each repeated block of a network, or before each of its layers. Device thread only.

A forward runs in a greenlet of its own. A hook at every such place asks whether somebody waits for the device; if so
it suspends that greenlet, and the step ends there. Whoever runs the next step goes on inside the forward. A hook costs a few
microseconds, so layers get one only where the stretches between blocks turned out to be long.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import greenlet
from torch import nn

from pipelines.batching import torch_modes
from pipelines.interface import never_yield

ASK_AGAIN_S = 0.001  # a layer that comes sooner after the last one asks nobody: small ones take microseconds
LONG_S = 0.01  # without a place to stop: as much as a person can't notice between two words
SURE = 4  # forwards in a row with such a stretch: one may have been held up by something else on the machine
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.GroupNorm)


class LongForward(greenlet.greenlet):
    """One forward under way. `should_yield` is set anew by each step that goes on with it."""

    def __init__(self, body: Callable[[], Any]) -> None:
        super().__init__(body)
        self.should_yield: Callable[[], bool] = never_yield
        self.longest_s = 0.0  # between two places so far
        self._since = time.perf_counter()

    def pass_block(self) -> None:
        self.note_stretch()
        if self.should_yield():
            self.pause()

    def pass_layer(self) -> None:
        if time.perf_counter() - self._since >= ASK_AGAIN_S:
            self.pass_block()

    def note_stretch(self) -> None:
        """Here, or at the end, one stretch without a place to stop is over."""
        now = time.perf_counter()
        self.longest_s = max(self.longest_s, now - self._since)
        self._since = now

    def pause(self) -> None:
        """Back to who runs the step, until the next one."""
        mine = torch_modes.current()
        self.parent.switch()
        mine.restore()
        self._since = time.perf_counter()


class YieldPoints:
    """The hooks on one module: where its forwards can stop."""

    def __init__(self, module: nn.Module, *, every_layer: bool = False, may_get_more: bool = False) -> None:
        """may_get_more: where its stretches between blocks turn out long, before every layer."""
        self._module = module
        self._may_get_more = may_get_more and not every_layer
        self._long = 0  # forwards in a row with a long stretch
        places, hook = (layers(module), _at_layer) if every_layer else (repeated_blocks(module), _at_block)
        self._hooks = [place.register_forward_pre_hook(hook) for place in places]

    def passed(self, longest_s: float) -> None:
        """A forward is over; its longest stretch."""
        if not self._may_get_more:
            return
        self._long = self._long + 1 if longest_s > LONG_S else 0
        if self._long == SURE:
            self._may_get_more = False
            self.remove()
            self._hooks = [layer.register_forward_pre_hook(_at_layer) for layer in layers(self._module)]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def layers(module: nn.Module) -> Iterator[nn.Module]:
    """All that takes long in one kernel; what lies between two of them (attention itself, activations) stays in one piece."""
    return (layer for layer in module.modules() if isinstance(layer, LAYERS))


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that a list holds several of, single layers left out: transformer blocks, residual blocks."""
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
    if isinstance(forward, LongForward):  # called outside a lane, a module runs as ever
        forward.pass_block()


def _at_layer(module: nn.Module, args: Any) -> None:
    forward = greenlet.getcurrent()
    if isinstance(forward, LongForward):
        forward.pass_layer()
