"""Decides which forwards of a denoiser are recorded as CUDA graphs, and replays them. Device thread only.

A small picture's forward is a thousand kernels that each run for a few microseconds, and launching one takes the host
as long. A graph launches them all at once. Calls are told apart by all that decides which kernels run (`call_key.py`).
A call that has come often is recorded, if its forward is short and the host takes most of that time to launch it. Long
forwards stay as they are, because a graph cannot be preempted between blocks.

A recording is never trusted blindly: at first its replays run beside the forward, and one bit of difference ends it.
Calls with hooks or other changes of one job on the modules, and what cannot be recorded, run as they are. All graphs
are dropped when weights move or change, and when memory is short, before anything else.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pipelines import device
from pipelines.batching import torch_modes
from pipelines.batching.preemption import is_yield_point, other_work_waits, uninterrupted
from pipelines.cuda_graphs import CaptureFailed
from pipelines.diffusion.graphs.call_key import key_of
from pipelines.diffusion.graphs.recorded_forward import Pool, RecordedForward

OFTEN = 20  # calls of one key until it is recorded
OFTEN_AT_MOST = 640  # each time that memory was short doubles the number
MOST_SECONDS = 0.1  # of a forward on the device: how long a message or a chat may have to wait for its end
LAUNCHING = 0.7  # of a forward's time on the device: where launching takes less, a graph would not end any sooner
CHECKS = 2  # replays that run beside the forward, after the one at the recording
MOST_GRAPHS = 8
MOST_BYTES = 4 << 30  # of their common pool
MOST_KEYS = 64  # that are counted; the one that has not come for longest is forgotten
MOST_REASONS = 4  # in the notes

NOT_RECORDED = "Its forwards are not CUDA graphs, which makes small pictures slower: {}."


@dataclass(frozen=True, slots=True)
class Entry:
    """A module's forward: as it is called in this lane, and what it is made of."""

    function: Callable[..., Any]  # a method of the module
    as_written: Callable[..., Any]  # with the job's LoRAs
    run: Callable[..., Any]  # with compiled blocks, too, where there are some


@dataclass(slots=True)
class Met:
    """The calls of one key so far."""

    count: int = 0
    timers: deque[device.LaunchTimer] = field(default_factory=lambda: deque(maxlen=4))
    host_s: float = float("inf")  # of the shortest forward
    device_s: float = float("inf")
    refused: bool = False
    graph: RecordedForward | None = None
    checks: int = CHECKS  # that are still to be made
    job: str = ""  # whose call was the last to look whether the weights are where they were


class ForwardGraphs:
    def __init__(
        self,
        make_pool: Callable[[], Pool] | None,
        device_name: str,
        *,
        often: int = OFTEN,
        most_seconds: float = MOST_SECONDS,
        launching: float = LAUNCHING,
        most_graphs: int = MOST_GRAPHS,
    ) -> None:
        """make_pool: None records nothing. often, most_seconds, launching: of a forward that is to be recorded."""
        self._make_pool = make_pool
        self._device_name = device_name
        self._often, self._most_graphs = often, most_graphs
        self._most_seconds, self._launching = most_seconds, launching
        self._pool: Pool | None = None
        self._met: OrderedDict[Hashable, Met] = OrderedDict()  # by key, the one that came last at the end
        self._reasons: dict[str, None] = {}  # why forwards were not recorded, in order
        self._code: Hashable = None  # the version of compiled code at the last call
        self._delayed = self._replayed = False
        self.on_resize: Callable[[], None] = lambda: None  # called when `n_bytes` changes during a forward

    @property
    def enabled(self) -> bool:
        return self._make_pool is not None

    @property
    def n_graphs(self) -> int:
        return sum(met.graph is not None for met in self._met.values())

    @property
    def n_bytes(self) -> int:
        """Of the device's memory, held by graphs and the copies of their arguments."""
        buffers = sum(met.graph.n_bytes for met in self._met.values() if met.graph is not None)
        return buffers + (0 if self._pool is None else self._pool.n_bytes)

    @property
    def notes(self) -> list[str]:
        count = self.n_graphs
        told = [f"Its forwards are CUDA graphs for {count} kind{'s' * (count > 1)} of calls."] if count else []
        return [*told, *map(NOT_RECORDED.format, list(self._reasons)[:MOST_REASONS])]

    @property
    def forward_seconds(self) -> list[tuple[float, float]]:
        """Of the shortest forward of each kind of call that was timed: on the host, and on the device."""
        return [(met.host_s, met.device_s) for met in self._met.values() if met.host_s < float("inf")]

    def take_delay(self) -> bool:
        """Whether a forward since the last call took longer, because it was recorded or checked."""
        delayed, self._delayed = self._delayed, False
        return delayed

    def take_replay(self) -> bool:
        """Whether a forward since the last call was a replay, which needs no memory of its own."""
        replayed, self._replayed = self._replayed, False
        return replayed

    def wrap_forward(
        self, entry: Entry, *, variant: Hashable, job: str, code: Callable[[], Hashable], changed: Callable[[], bool]
    ) -> Callable[..., Any]:
        """The forward of the entry, replayed where it is recorded.

        variant: what else decides what runs, such as LoRAs. code: returns the version of compiled code. changed:
        whether the job has changed the modules, which a replay would not notice.
        """

        @functools.wraps(entry.function)
        def call(*args: Any, **kwargs: Any) -> Any:
            modes = torch_modes.current()
            if not self.enabled or modes.grad or any(enabled for enabled, _ in modes.autocast) or changed():
                return entry.run(*args, **kwargs)
            self._drop_if_code_changed(code())
            try:
                key = id(entry.function), variant, key_of(args, kwargs, self._device_name.split(":")[0])
            except CaptureFailed as failure:
                self._reasons[str(failure)] = None
                return entry.run(*args, **kwargs)
            try:
                return self._call(self._met_with(key), entry, job, args, kwargs)
            except Exception as error:
                if device.is_out_of_memory(error):
                    self.drop_for_memory()  # the forward is tried again
                raise
            finally:
                self._drop_if_code_changed(code())

        return call

    def drop(self) -> int:
        """Free all graphs; returns their bytes. What is called as often as before is recorded again."""
        n_bytes = self.n_bytes
        if self.n_graphs or self._pool is not None:
            device.finish(self._device_name)
            self._met.clear()
            self._pool = None
            device.release_cache()
            self.on_resize()
        return n_bytes

    def drop_for_memory(self) -> int:
        """As `drop`, and wait longer until the next is recorded."""
        freed = self.drop()
        if freed:
            self._often = min(2 * self._often, OFTEN_AT_MOST)
        return freed

    def close(self) -> None:
        self.on_resize = lambda: None
        self.drop()
        self._met.clear()
        self._make_pool = None

    def _drop_if_code_changed(self, code: Hashable) -> None:
        if code != self._code:
            self._code = code
            self.drop()
            self._met.clear()

    def _met_with(self, key: Hashable) -> Met:
        met = self._met.setdefault(key, Met())
        self._met.move_to_end(key)
        if len(self._met) > MOST_KEYS:
            self._forget(next(iter(self._met)))
        return met

    def _forget(self, key: Hashable) -> None:
        if self._met.pop(key).graph is not None:
            device.finish(self._device_name)
            self.on_resize()

    def _call(self, met: Met, entry: Entry, job: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if met.graph is not None and job != met.job:
            met.job = job
            if met.graph.is_stale:
                self.drop()
                return entry.run(*args, **kwargs)
        if met.graph is None and self._is_to_be_recorded(met) and not other_work_waits():
            self._record(met, entry, args, kwargs)
            return entry.run(*args, **kwargs) if met.graph is None else met.graph(args, kwargs)
        if met.graph is None:
            return self._run(met, entry, args, kwargs)
        if met.checks:
            return self._check(met, met.graph, entry, args, kwargs)
        self._replayed = True
        return met.graph(args, kwargs)

    def _run(self, met: Met, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if met.refused or met.count > self._often:
            return entry.run(*args, **kwargs)
        met.count += 1
        with device.LaunchTimer(self._device_name) as timer:
            output = entry.run(*args, **kwargs)
        met.timers.append(timer)
        return output

    def _is_to_be_recorded(self, met: Met) -> bool:
        """Whether the call has come often, is short, and is held up by the host."""
        while met.timers and (seconds := met.timers[0].device_s) is not None:
            # The shortest, because other work on the device and preemption only make it longer.
            met.host_s = min(met.host_s, met.timers.popleft().host_s)
            met.device_s = min(met.device_s, seconds)
        if met.refused or met.count < self._often:
            return False
        if met.device_s > self._most_seconds or met.host_s < self._launching * met.device_s:
            met.refused = True
        return not met.refused

    def _record(self, met: Met, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Set `met.graph`, or `met.refused`."""
        self._delayed = True
        reason, out_of_memory = "", False
        while self.n_graphs >= self._most_graphs:
            self._forget(next(key for key, each in self._met.items() if each.graph is not None))
        try:
            with uninterrupted():
                met.graph = self._recorded(entry, args, kwargs)
        except CaptureFailed as failure:
            reason = str(failure)
        except Exception as error:  # of the forward itself, which then runs as it is and fails for itself
            if device.is_fatal(error):
                raise
            out_of_memory = device.is_out_of_memory(error)
            reason = "there was too little memory" if out_of_memory else f"{type(error).__name__}: {error}"[:300]
        if met.graph is None:
            met.refused = True
            self._reasons[reason.rstrip(".")] = None
        if out_of_memory:  # outside of `except`, whose frames hold tensors
            self.drop_for_memory()
            device.release_cache()
        self.on_resize()

    def _recorded(self, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RecordedForward:
        assert self._make_pool is not None
        module = getattr(entry.function, "__self__", None)
        if not isinstance(module, nn.Module):
            raise CaptureFailed("something surrounds its forward")
        if reason := reason_against(module, self._device_name.split(":")[0]):
            raise CaptureFailed(reason)
        if self._pool is None:
            self._pool = self._make_pool()
        most_bytes = min(MOST_BYTES - self._pool.n_bytes, device.obtainable_bytes(self._device_name) // 2)
        return RecordedForward(
            module,
            entry.run,
            entry.as_written,
            args,
            kwargs,
            self._pool,
            device_name=self._device_name,
            most_bytes=most_bytes,
        )

    def _check(
        self, met: Met, graph: RecordedForward, entry: Entry, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run the forward as it is, and compare a replay with what it returns."""
        self._delayed = True
        output = entry.run(*args, **kwargs)
        if met.graph is not graph:  # dropped while the forward was preempted
            return output
        met.checks -= 1
        if not graph.agrees(args, kwargs, output):
            met.graph, met.refused = None, True
            self._reasons["a replay differed from the forward"] = None
            self.on_resize()
        return output


def reason_against(module: nn.Module, device_type: str) -> str:
    """Why no forward of the module may be recorded, or nothing."""
    if any(weight.device.type != device_type for weight in (*module.parameters(), *module.buffers())):
        return "its weights are not all on the device"
    if any(_others_hooks(module)):
        return "hooks are on its layers"
    return ""


def _others_hooks(module: nn.Module) -> Iterator[object]:
    """Hooks inside the module that are not of this package. Its own hooks run before its forward is called."""
    for layer in module.modules():
        registry = vars(layer).get("_diffusers_hook")
        yield from () if registry is None else registry.hooks
        if layer is not module:
            hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
            yield from (hook for hook in hooks if not is_yield_point(hook))
