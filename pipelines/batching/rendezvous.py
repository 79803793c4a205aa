"""Step-level batching of code that was written to run alone. Device thread only.

A task runs stock code in a greenlet, and is suspended where it calls a module that costs device time
(`wrapped_modules.py`). `step` takes the pending calls that can share one forward, runs them as one batch
(`batched_call.py`), hands each task its rows and resumes it until its next call or its end. So tasks that know nothing
of each other join and leave the batch at every call.

The forward runs in a greenlet too, and can be preempted at its blocks or layers (`preemption.py`); the next `step`
resumes it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import greenlet

from pipelines import device
from pipelines.batching import torch_modes
from pipelines.batching.batched_call import BatchedCalls, CallResult
from pipelines.batching.merging import Call, CallSignature
from pipelines.batching.module_state import ModuleChanges
from pipelines.batching.preemption import PreemptibleForward
from pipelines.batching.task import Outcome, Task, TaskCanceled
from pipelines.batching.wrapped_modules import WrappedModules
from pipelines.interface import Merging, never_yield

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward, and the tasks that share it."""

    tasks: tuple[Task, ...]
    component: str
    entry: str


@dataclass(slots=True)
class ActiveForward:
    """A forward that has begun and may be suspended."""

    forward: Forward
    greenlet: PreemptibleForward
    module_changes: ModuleChanges  # on the modules while it runs


class Rendezvous:
    def __init__(
        self,
        modules: WrappedModules,
        *,
        max_calls: int = 8,
        merging: Merging = "unproven",
        verdicts: Mapping[str, bool] | None = None,
        salt: str = "",
        fence: device.Fence | None = None,
    ) -> None:
        """modules: which the tasks call. max_calls: most calls in one forward. fence: of the device.

        verdicts, salt: see `BatchedCalls`.
        """
        self._batched_calls = BatchedCalls(max_calls=max_calls, merging=merging, verdicts=verdicts or {}, salt=salt)
        self._fence = fence or device.Fence("cpu")
        self._waiting: list[Task] = []  # suspended at a pending call, oldest first
        self._active: ActiveForward | None = None  # suspended inside a forward
        self.modules = modules

    @property
    def merging(self) -> Merging:
        return self._batched_calls.merging

    @property
    def verdicts(self) -> dict[str, bool]:
        return self._batched_calls.verdicts

    @property
    def salt(self) -> str:
        return self._batched_calls.salt

    @salt.setter
    def salt(self, salt: str) -> None:
        self._batched_calls.salt = salt

    @property
    def out_of_memory_widths(self) -> list[int]:
        """Widths that ran out of memory in the last forward."""
        return self._batched_calls.out_of_memory_widths

    @property
    def was_proof(self) -> bool:
        """Whether the last forward was a proof, in which each call ran more than once."""
        return self._batched_calls.was_proof

    @property
    def busy(self) -> bool:
        """Whether any task that is not canceled waits for a forward."""
        return self.mid_forward or any(not task.canceled for task in self._waiting)

    @property
    def mid_forward(self) -> bool:
        """Whether a suspended forward is to be resumed for a task that is not canceled."""
        return self._active is not None and any(not task.canceled for task in self._active.forward.tasks)

    def start(self, task: Task) -> Outcome | None:
        """Run `task` to its first pending call, or to its end."""
        return self._resume(task, task.switch)

    def cancel(self, task: Task) -> None:
        """Unwind a suspended task's frames.

        What they held is free when this returns, or when the forward that the task shares with others is over.
        """
        if task in self._waiting:
            self._waiting.remove(task)
        task.canceled = True
        task.clear_call()
        modes = torch_modes.current()
        while not task.dead:  # a `finally` in stock code may call a module, and so suspend the task once more
            try:
                with self.modules.state.recorded(task.module_changes):
                    task.throw(TaskCanceled())
            except TaskCanceled:
                pass
            except Exception as error:  # stock code's own cleanup failed; the task has ended all the same
                if device.is_fatal(error):
                    raise
                logger.warning("cleanup of a canceled task failed", extra={"task": task.name}, exc_info=error)
            finally:
                modes.restore()
        if self._active is not None and not self.mid_forward:
            self._abandon(self._active.greenlet)

    def peek(self, max_calls: int | None = None) -> Forward:
        """Return the forward that the next `step` runs or resumes. Needs `busy`."""
        if self._active is not None and self.mid_forward:
            return self._active.forward
        tasks, _ = self._choose_batch(max_calls)
        call = tasks[0].pending_call
        assert call is not None
        return Forward(tuple(tasks), call.component, call.entry)

    def step(
        self, max_calls: int | None = None, should_yield: Callable[[], bool] = never_yield, in_tiles: bool = False
    ) -> tuple[Forward, list[Outcome] | None]:
        """Run the longest pending call with those that can share its forward, and resume their tasks. Needs `busy`.

        max_calls: most calls in the forward. in_tiles: a decode of a single call is done in tiles. Returns the outcomes
        of tasks that ended, or None when the forward was preempted: the next `step` resumes it.
        """
        active = self._active or self._begin(max_calls, in_tiles)
        active.greenlet.should_yield = should_yield
        modes = torch_modes.current()
        try:
            with self.modules.state.applied(active.module_changes, active.forward.component):
                results: list[CallResult] | None = active.greenlet.switch()
        finally:
            self._active = None if active.greenlet.dead else active
            modes.restore()
        if self._active is not None or results is None:
            return active.forward, None
        self.modules.forward_ended(active.forward.component, active.greenlet.longest_interval_s)
        # Each result is popped, so that its task alone holds it and can free it.
        ended = [self._deliver(task, results.pop(0)) for task in active.forward.tasks]
        return active.forward, [outcome for outcome in ended if outcome is not None]

    def _begin(self, max_calls: int | None, in_tiles: bool) -> ActiveForward:
        tasks, width = self._choose_batch(max_calls)
        calls = [task.pending_call for task in tasks if task.pending_call is not None]
        signature = tasks[0].signature if len(tasks) > 1 else None
        for task in tasks:
            self._waiting.remove(task)
            task.clear_call()
        forward = Forward(tuple(tasks), calls[0].component, calls[0].entry)
        body = functools.partial(self._run_forward, calls, signature, width, in_tiles)
        changes = tasks[0].module_changes if len(tasks) == 1 else tasks[0].module_changes.shared()
        return ActiveForward(forward, PreemptibleForward(body), changes)

    def _run_forward(
        self, calls: list[Call], signature: CallSignature | None, width: int, in_tiles: bool
    ) -> list[CallResult]:
        """The body of a forward's greenlet: wait for the forward before, then run.

        When other work waits, also wait for this forward's own end, because stock code that is handed the results may
        block the thread until the device is done.
        """
        this = greenlet.getcurrent()
        assert isinstance(this, PreemptibleForward)
        while not self._fence.wait(this.should_yield):
            this.pause()
        results = self._batched_calls.run(calls, signature, width, in_tiles)
        this.end_interval()
        self._fence.mark()
        while this.should_yield() and not self._fence.passed:
            this.pause()
        return results

    def _abandon(self, forward: PreemptibleForward) -> None:
        """End a suspended forward whose tasks have all been canceled."""
        forward.should_yield = (
            _always_yield  # code that catches the exception and goes on gets it again at its next block
        )
        modes = torch_modes.current()
        while not forward.dead:
            try:
                forward.throw(TaskCanceled())
            except TaskCanceled:
                pass
            except Exception as error:  # a module's own cleanup failed
                if device.is_fatal(error):
                    raise
            finally:
                modes.restore()
        self._active = None

    def _choose_batch(self, max_calls: int | None) -> tuple[list[Task], int]:
        """Return the task that has waited longest with those that can share its forward, and the width to use."""
        waiting = [task for task in self._waiting if not task.canceled]
        first = waiting[0]
        if not self._batched_calls.enabled or len(waiting) == 1:
            return [first], 1
        if first.pending_call is not None and any(task.waits_at_same_entry(first) for task in waiting[1:]):
            self._batched_calls.note_meeting(first.pending_call)
        if first.signature is None:
            return [first], 1
        alike = [task for task in waiting if task.signature is not None and task.signature.key == first.signature.key]
        n_calls, width = self._batched_calls.choose_width(first.signature, len(alike), max_calls)
        return alike[:n_calls], width

    def _deliver(self, task: Task, result: CallResult) -> Outcome | None:
        if task.dead:  # canceled while its forward ran
            return None
        task.batch_peak = max(task.batch_peak, result.width)
        task.tiled |= result.tiled
        if result.error is not None:
            return self._resume(task, functools.partial(task.throw, result.error))
        return self._resume(task, functools.partial(task.switch, result.output))

    def _resume(self, task: Task, switch: Callable[[], Any]) -> Outcome | None:
        modes = torch_modes.current()
        try:
            with self.modules.state.recorded(task.module_changes), task.rng_state.installed():
                returned = switch()
        except TaskCanceled:
            raise
        except BaseException as error:  # whatever stock code raises ends this task alone, a panic of Rust code too
            if device.is_fatal(error):
                raise
            return Outcome(task, error=error)
        finally:
            modes.restore()
        if task.dead:
            return Outcome(task, result=returned)
        task.suspend_at(returned)
        self._waiting.append(task)
        return None


def _always_yield() -> bool:
    return True
