"""The modules that adapters lend to the requests of one lane: loaded when first wanted, kept until they are dropped.

Device thread only. A lent module is an entry point of its own, so that its forwards are merged, proved, measured and
parked like those of the checkpoint's modules. The scheduler decides when one leaves (`DropAdapters`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from pipelines import device
from pipelines.batching.wrapped_modules import WrappedModules, entries_of
from pipelines.diffusion_interface import Adapter
from pipelines.host_offload import HostOffload

# Opens the module of an adapter, on the device and in the lane's dtype. Raises `BadAdapter`.
OpenAdapter: TypeAlias = Callable[[Adapter], Any]
# Reads the files of an adapter into the page cache, on another thread, so that opening it is short.
ReadAhead: TypeAlias = Callable[[Adapter], None]


class BadAdapter(Exception):
    """The adapter cannot be used with this model. The message may be shown to the client."""


def reads_nothing(adapter: Adapter) -> None:
    """The `ReadAhead` of a lane that is given none."""


def opens_none(adapter: Adapter) -> Any:
    """The `OpenAdapter` of a lane that is given none."""
    raise BadAdapter(f"The adapter {adapter.name} cannot be used: this model was loaded without adapters.")


class LentModules:
    def __init__(
        self,
        open_adapter: OpenAdapter,
        read_ahead: ReadAhead,
        modules: WrappedModules,
        host_offload: HostOffload,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """on_change: called when the lane holds other weights than before, once `host_offload` counts them."""
        self._open = open_adapter
        self._read_ahead = read_ahead
        self._modules = modules
        self._host_offload = host_offload
        self._on_change = on_change
        self._held: dict[str, nn.Module] = {}  # by component

    @property
    def held(self) -> Mapping[str, Any]:
        return self._held

    def reading_ahead(self, adapters: Sequence[Adapter]) -> Callable[[], None] | None:
        """Returns what reads the files of those that are not held yet, on any thread; None when all are held.

        It does not refer to this object, whose modules a thread that still reads would otherwise keep in memory.
        """
        missing = [adapter for adapter in adapters if adapter.component not in self._held]
        return functools.partial(_read_all, self._read_ahead, missing) if missing else None

    def load(self, adapters: Sequence[Adapter]) -> Exception | None:
        """Load the modules of these adapters. Returns what went wrong: a file that is gone, or too little memory."""
        try:
            for adapter in adapters:
                self.borrow(adapter)
        except Exception as error:
            if device.is_fatal(error):
                raise
            failure = error.with_traceback(None)  # whose frames would hold what was loaded so far
        else:
            return None
        device.release_cache()
        return failure

    def borrow(self, adapter: Adapter) -> Any:
        """Returns the module of the adapter, which is loaded if it is not held yet.

        Raises `BadAdapter`; an out-of-memory error passes through, and nothing is held then.
        """
        component = adapter.component
        if component not in self._held:
            self._held[component] = module = self._open(adapter)
            called = _called(module)
            if called is not None:
                for entry in entries_of(called):
                    self._modules.wrap(component, called, entry)
            self._host_offload.add(component, module, stays=called is not module)
            self._on_change()
        return self._held[component]

    def refresh(self) -> None:
        """Count the weights again: some pipelines give a lent module parts of the checkpoint's own."""
        self._host_offload.refresh()

    def drop(self, components: Collection[str]) -> None:
        """Let go of these modules, which no request may be using. Others than those that are held are ignored."""
        leaving = [component for component in components if component in self._held]
        for component in leaving:
            self._unwrap(component)
            del self._held[component]
            self._host_offload.remove(component)
        if leaving:
            device.release_cache()
            self._on_change()

    def _unwrap(self, component: str) -> None:
        if (called := _called(self._held[component])) is not None:
            self._modules.unwrap_component(component, called)


def _read_all(read_ahead: ReadAhead, adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        read_ahead(adapter)


def _called(module: nn.Module) -> nn.Module | None:
    """What pipelines call of a lent module: all of it, unless it has a part for that (the encoder of an IP-Adapter)."""
    called: nn.Module | None = getattr(module, "called", module)
    return called
