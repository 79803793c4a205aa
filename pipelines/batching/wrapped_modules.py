"""Modules whose entry points suspend the tasks that call them. Device thread only.

A call from within a task suspends the task with the call pending, and `Rendezvous` runs it; a call from elsewhere runs
as usual. A task with a `StepCache` may answer some of its calls by itself, and is not suspended at those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import greenlet
import torch
from torch import nn

from pipelines.batching.call_device import on_device
from pipelines.batching.merging import Call
from pipelines.batching.module_dtype import in_dtype_of_task, keep_dtype
from pipelines.batching.module_state import ModuleState
from pipelines.batching.preemption import YieldPoints
from pipelines.batching.task import Task

VAE_ENTRIES = ("encode", "decode")


class WrappedModules:
    def __init__(self, *, every_layer: bool = False, compute_device: torch.device | None = None) -> None:
        """every_layer: forwards that run long between two blocks may get a yield point before each layer.

        compute_device: gets the arguments of every call; None leaves them where they are.
        """
        self.state = ModuleState()
        self._wrapped: list[tuple[Any, str, Any]] = []  # (module, entry, instance attribute before)
        self._every_layer = every_layer
        self._compute_device = compute_device
        self._yield_points: dict[str, dict[int, YieldPoints]] = {}  # by component, then by id of the module

    def wrap(self, component: str, owner: Any, entry: str) -> None:
        """Make `owner.entry` suspend the tasks that call it. `unwrap` undoes this."""
        function = getattr(owner, entry)

        @functools.wraps(function)  # pipelines look at the signature of `forward`
        def suspend(*args: Any, **kwargs: Any) -> Any:
            task = greenlet.getcurrent()
            if not isinstance(task, Task) or task.parent is None:
                return function(*args, **kwargs)
            if self._compute_device is not None:
                args, kwargs = on_device((args, kwargs), self._compute_device)
            if entry != "forward":
                called, (args, kwargs) = in_dtype_of_task(task, owner, function, (args, kwargs))
                return _await(task, Call(component, entry, called, args, kwargs))

            def run() -> Any:
                wrapped = task.wrap_forward(function) if task.wrap_forward else function
                return _await(task, Call(component, entry, wrapped, args, kwargs))

            if task.step_cache is None or component in task.module_changes.hooked:  # hooks look into each forward
                return run()
            return task.step_cache.call(component, (*args, *kwargs.values()), run)

        yield_points = self._yield_points.setdefault(component, {})
        if isinstance(owner, nn.Module) and id(owner) not in yield_points:
            yield_points[id(owner)] = YieldPoints(
                owner, every_layer=entry in VAE_ENTRIES, may_add_layers=self._every_layer
            )
            self.state.watch(component, owner)
            if entry in VAE_ENTRIES:
                self._replace(owner, "to", keep_dtype(owner))
        self._replace(owner, entry, suspend)

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        self._wrapped.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, function)

    def keep_whole(self, blocks: Iterable[nn.Module]) -> None:
        """Forwards are preempted before these blocks, and never inside them: compiled code runs in one piece."""
        blocks = list(blocks)
        for by_module in self._yield_points.values():
            for yield_points in by_module.values():
                yield_points.keep_whole(blocks)

    def forward_ended(self, component: str, longest_interval_s: float) -> None:
        """longest_interval_s: between two yield points of the forward."""
        for yield_points in self._yield_points.get(component, {}).values():
            yield_points.forward_ended(longest_interval_s)

    def unwrap_component(self, component: str, owner: nn.Module) -> None:
        """Undo what `wrap` did to `owner`, the only module of this component, and let go of it."""
        self._undo([wrapped for wrapped in self._wrapped if wrapped[0] is owner])
        self._wrapped = [wrapped for wrapped in self._wrapped if wrapped[0] is not owner]
        for yield_points in self._yield_points.pop(component, {}).values():
            yield_points.remove()
        self.state.forget(owner)

    def unwrap(self) -> None:
        """Undo every `wrap` and let go of the modules."""
        self._undo(self._wrapped)
        self._wrapped.clear()
        for by_module in self._yield_points.values():
            for yield_points in by_module.values():
                yield_points.remove()
        self._yield_points.clear()
        self.state = ModuleState()

    @staticmethod
    def _undo(wrapped: list[tuple[Any, str, Any]]) -> None:
        for owner, entry, before in reversed(wrapped):
            if before is None:
                delattr(owner, entry)  # the class's own method shows again
            else:
                setattr(owner, entry, before)


def entries_of(module: Any) -> tuple[str, ...]:
    """The methods by which pipelines run a module. A VAE has two."""
    return VAE_ENTRIES if hasattr(module, "decode") and hasattr(module, "encode") else ("forward",)


def _await(task: Task, call: Call) -> Any:
    """Suspend the task until its call has run, and return the call's output."""
    try:
        return task.parent.switch(call)
    finally:
        call.modes.restore()
