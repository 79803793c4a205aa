"""Where a long forward can stop for a while: before each repeated block of a network, or before each of its layers. Device thread only.

A forward runs in a greenlet of its own. A hook at every such place asks whether somebody waits for the device; if so
it suspends that greenlet, and the step ends there. Whoever runs the next step goes on inside the forward.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import greenlet
from torch import nn

from pipelines import ambient
from pipelines.interface import never

ASK_AGAIN_S = 0.001  # a layer that comes sooner after the last one asks nobody: small ones take microseconds
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.GroupNorm)


class LongForward(greenlet.greenlet):
    """One forward under way. `give_way` is set anew by each step that goes on with it."""

    def __init__(self, body: Callable[[], Any]) -> None:
        super().__init__(body)
        self.give_way: Callable[[], bool] = never
        self._asked_at = 0.0

    def pause_if_asked(self) -> None:
        if self.give_way():
            self.pause()

    def pause_now_and_then(self) -> None:
        now = time.perf_counter()
        if now - self._asked_at >= ASK_AGAIN_S:
            self._asked_at = now
            self.pause_if_asked()

    def pause(self) -> None:
        """Back to who runs the step, until the next one."""
        mine = ambient.current()
        self.parent.switch()
        mine.restore()


class Places:
    """The hooks on one module: where its forwards can stop."""

    def __init__(self, module: nn.Module, *, every_layer: bool) -> None:
        """every_layer: worth it where a layer takes long, as all do on a CPU and those of a VAE everywhere."""
        if every_layer:
            self._hooks = [layer.register_forward_pre_hook(_at_layer) for layer in layers(module)]
        else:
            self._hooks = [block.register_forward_pre_hook(_at_block) for block in repeated_blocks(module)]

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
        forward.pause_if_asked()


def _at_layer(module: nn.Module, args: Any) -> None:
    forward = greenlet.getcurrent()
    if isinstance(forward, LongForward):
        forward.pause_now_and_then()
