"""Step-level batching of code that was written to run alone. Device thread only.

A task runs stock code in a greenlet. The modules that cost device time have their entry points wrapped: called inside
a task, an entry point parks the call here and suspends the task; called outside, it runs as ever. `step` takes the
calls that can share one forward, runs them as one batch, hands each task its rows and resumes it until it parks
again or ends. So tasks that know nothing of each other join and leave the batch at every call.

Merging is proved before it is trusted: the first time calls of some structure could merge, they run both ways, and
where the results differ beyond the tolerance of the dtype that structure is never merged; its calls still take turns.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import greenlet
import torch

from pipelines import device
from pipelines.interface import Merging
from pipelines.merging import Call, Form, Unmergeable, bucket, difference, form_of, generators_of, run_merged

# Largest relative difference between a row run alone and the same row in a batch that counts as "the same".
# float32: matmul kernels chosen by width differ by a few 1e-6 through a deep network; halves: about their own rounding.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class TaskCanceled(BaseException):
    """Thrown into a parked task to end it. Not an Exception, so that no stock code swallows it."""


class Task(greenlet.greenlet):
    """Stock code that is running. `mergeable` False keeps all its calls alone."""

    def __init__(self, name: str, body: Callable[[], Any], *, mergeable: bool = True) -> None:
        super().__init__(body)
        self.name = name
        self.mergeable = mergeable
        self.parked: Call | None = None
        self.form: Form | None = None
        self.batch_peak = 1  # most calls any forward of this task shared


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: with what its body returned, or with the error that ended it."""

    task: Task
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward that ran: which tasks shared it and the seconds it took."""

    tasks: tuple[Task, ...]
    component: str
    entry: str
    seconds: float


class Rendezvous:
    def __init__(self, *, max_calls: int = 8, merging: Merging = "unproven") -> None:
        self.max_calls = max_calls
        self._never = merging == "off"
        self._trusted: dict[Hashable, bool] = {}  # call structure → proved to merge
        self._waiting: list[Task] = []  # parked, oldest first
        self._wrapped: list[tuple[Any, str]] = []

    @property
    def merging(self) -> Merging:
        """On when every structure tried so far merges; off when the ones that run every step don't."""
        if self._never:
            return "off"
        if not self._trusted:
            return "unproven"
        return "on" if any(self._trusted.values()) else "off"

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def wrap(self, component: str, owner: Any, entry: str) -> None:
        """Make `owner.entry` a meeting point for tasks. Undone by `unwrap`."""
        function = getattr(owner, entry)

        @functools.wraps(function)  # pipelines look at the signature of `forward`
        def meet(*args: Any, **kwargs: Any) -> Any:
            task = greenlet.getcurrent()
            if not isinstance(task, Task) or task.parent is None:
                return function(*args, **kwargs)
            return task.parent.switch(Call(component, entry, function, args, kwargs))

        setattr(owner, entry, meet)
        self._wrapped.append((owner, entry))

    def unwrap(self) -> None:
        for owner, entry in self._wrapped:
            delattr(owner, entry)  # the instance attribute; the class's own method shows again
        self._wrapped.clear()

    def start(self, task: Task) -> Outcome | None:
        """Run `task` to its first parked call, or to its end."""
        return self._resume(task, lambda: task.switch())

    def cancel(self, task: Task) -> None:
        """Unwind a parked task's frames; what they held is free when this returns."""
        self._waiting.remove(task)
        task.parked = task.form = None
        try:
            task.throw(TaskCanceled())
        except TaskCanceled:
            pass

    def step(self) -> tuple[Forward, list[Outcome]]:
        """Run the group of the longest parked call and resume its tasks. Needs `busy`."""
        group, width = self._pick()
        calls = [task.parked for task in group if task.parked is not None]
        for task in group:
            self._waiting.remove(task)
            task.batch_peak = max(task.batch_peak, len(group))
        began = time.perf_counter()
        results = self._run(group, calls, width)
        forward = Forward(tuple(group), calls[0].component, calls[0].entry, time.perf_counter() - began)
        del calls
        ended = (self._deliver(task, *result) for task, result in zip(group, results, strict=True))
        return forward, [outcome for outcome in ended if outcome is not None]

    def _pick(self) -> tuple[list[Task], int]:
        first = self._waiting[0]
        if not self._may_merge(first):
            return [first], 1
        assert first.form is not None
        alike = [t for t in self._waiting if t.mergeable and t.form is not None and t.form.key == first.form.key]
        take, width = bucket(len(alike), self.max_calls)
        return alike[:take], width

    def _may_merge(self, task: Task) -> bool:
        if self._never or not task.mergeable or task.form is None:
            return False
        return self._trusted.get(task.form.structure, True)

    def _run(self, group: list[Task], calls: list[Call], width: int) -> list[tuple[Any, BaseException | None]]:
        """One (output, error) per call."""
        if len(calls) == 1:
            return [self._run_alone(calls[0])]
        form = group[0].form
        assert form is not None
        if form.structure not in self._trusted:
            return self._prove(form, calls, width)
        try:
            return [(output, None) for output in run_merged(calls, form.rows, width)]
        except Unmergeable:
            self._trusted[form.structure] = False
        except Exception as error:
            if device.is_fatal(error):
                raise
        # Outside the except block: the failed frames have let go of their tensors.
        device.release_cache()
        half = max(1, len(calls) // 2)
        first, second = (group[:half], calls[:half]), (group[half:], calls[half:])
        return [result for tasks, part in (first, second) for result in self._run(tasks, part, len(part))]

    def _run_alone(self, call: Call) -> tuple[Any, BaseException | None]:
        try:
            return call.run(), None
        except Exception as error:
            if device.is_fatal(error):
                raise
            if not device.is_out_of_memory(error):
                return None, error
            failure = error.with_traceback(None)
        device.release_cache()
        return self._run_tiled(call, failure)

    def _run_tiled(self, call: Call, failure: BaseException) -> tuple[Any, BaseException | None]:
        """The last resort for one row: a VAE decode in tiles."""
        vae = getattr(call.function, "__self__", None)
        if call.entry != "decode" or not hasattr(vae, "enable_tiling"):
            return None, failure
        vae.enable_tiling()
        try:
            return call.run(), None
        except Exception as error:
            return None, error.with_traceback(None)
        finally:
            vae.disable_tiling()

    def _prove(self, form: Form, calls: list[Call], width: int) -> list[tuple[Any, BaseException | None]]:
        """Run the calls alone and merged; trust this structure from now on if nothing but rounding differs."""
        states = [[g.get_state() for g in generators_of(call)] for call in calls]
        results = [self._run_alone(call) for call in calls]
        if any(error is not None for _, error in results):
            return results
        drew = any(
            not torch.equal(before, g.get_state())
            for call, befores in zip(calls, states, strict=True)
            for before, g in zip(befores, generators_of(call), strict=True)
        )
        self._trusted[form.structure] = not drew and self._agrees(form, calls, width, [output for output, _ in results])
        return results

    def _agrees(self, form: Form, calls: list[Call], width: int, alone: list[Any]) -> bool:
        try:
            merged = run_merged(calls, form.rows, width)
        except Exception as error:
            if device.is_fatal(error):
                raise
            return False
        return all(difference(a, b) <= _tolerance(a) for a, b in zip(alone, merged, strict=True))

    def _deliver(self, task: Task, output: Any, error: BaseException | None) -> Outcome | None:
        task.parked = task.form = None
        if error is None:
            return self._resume(task, lambda: task.switch(output))
        return self._resume(task, lambda: task.throw(error))

    def _resume(self, task: Task, go: Callable[[], Any]) -> Outcome | None:
        try:
            handed = go()
        except Exception as error:
            if device.is_fatal(error):
                raise
            return Outcome(task, error=error)
        if task.dead:
            return Outcome(task, result=handed)
        assert isinstance(handed, Call)
        task.parked, task.form = handed, form_of(handed) if task.mergeable else None
        self._waiting.append(task)
        return None


def _tolerance(output: Any) -> float:
    dtypes: Iterable[torch.dtype] = (x.dtype for x in torch.utils._pytree.tree_leaves(output) if isinstance(x, torch.Tensor))
    return max((TOLERANCE.get(dtype, 0.0) for dtype in dtypes), default=0.0)
