"""Where a long forward can stop for a while: before each repeated block of a network. Device thread only.

A forward runs in a greenlet of its own. A hook on every repeated block asks whether somebody waits for the device; if so
it suspends that greenlet, and the step ends there. Whoever runs the next step goes on inside the forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import greenlet
from torch import nn

from pipelines import ambient
from pipelines.interface import never


class LongForward(greenlet.greenlet):
    """One forward under way. `give_way` is set anew by each step that goes on with it."""

    def __init__(self, body: Callable[[], Any]) -> None:
        super().__init__(body)
        self.give_way: Callable[[], bool] = never

    def pause_if_asked(self) -> None:
        if self.give_way():
            self.pause()

    def pause(self) -> None:
        """Back to who runs the step, until the next one."""
        mine = ambient.current()
        self.parent.switch()
        mine.restore()


class Blocks:
    """The hooks on one module's repeated blocks."""

    def __init__(self, module: nn.Module) -> None:
        self._hooks = [block.register_forward_pre_hook(_at_block) for block in repeated_blocks(module)]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


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
