"""Step-level batching of code that was written to run alone. Device thread only.

A task runs stock code in a greenlet. The modules that cost device time have their entry points wrapped: called inside
a task, an entry point parks the call here and suspends the task; called outside, it runs as ever. `step` takes the
calls that can share one forward, runs them as one batch (`joint.py`), hands each task its rows and resumes it until it
parks again or ends. So tasks that know nothing of each other join and leave the batch at every call.

The forward runs in a greenlet too, and may give way at each of its blocks or layers (`blocks.py`); the next `step` goes on there.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import greenlet
from torch import nn

from pipelines import device
from pipelines.batching import torch_modes
from pipelines.batching.batched_call import BatchedCalls, Result
from pipelines.batching.merging import Call, Form, form_of
from pipelines.batching.module_state import Fitted, ModuleState
from pipelines.batching.preemption import LongForward, YieldPoints
from pipelines.batching.rng_state import RngState
from pipelines.interface import Merging, never_yield

VAE_ENTRIES = ("encode", "decode")

logger = logging.getLogger(__name__)


class TaskCanceled(BaseException):
    """Thrown into a parked task to end it. Not an Exception, so that no stock code swallows it."""


class Task(greenlet.greenlet):
    """Stock code that is running. `mergeable` False keeps all its calls alone."""

    def __init__(
        self,
        name: str,
        body: Callable[[], Any],
        *,
        mergeable: bool = True,
        variant: Hashable = None,
        around: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
        dice: RngState | None = None,
    ) -> None:
        """variant: only calls of tasks of the same one are merged. around: what a forward of this task is wrapped in.

        dice: torch's own random numbers while this task runs.
        """
        super().__init__(body)
        self.name = name
        self.mergeable = mergeable
        self.variant = variant
        self.around = around
        self.dice = dice or RngState(0)
        self.fitted = Fitted()
        self.parked: Call | None = None
        self.canceled = False  # takes part in no further forward; `Rendezvous.cancel` is still to unwind it
        self.calls = 0  # that have parked so far
        self.batch_peak = 1  # widest forward this task had a part in
        self._form: Form | None = None

    def waits_where(self, other: Task) -> bool:
        mine, its = self.parked, other.parked
        return mine is not None and its is not None and (mine.component, mine.entry) == (its.component, its.entry)

    def park(self, call: Call | None) -> None:
        self.parked, self._form = call, None
        self.calls += call is not None

    @property
    def form(self) -> Form | None:
        """Of the parked call; None where it cannot share a forward. Worked out when asked for: with one task running nobody asks."""
        if self._form is None and self.parked is not None and self.mergeable and not self.fitted:
            form = _form_of(self.parked)
            self._form = form and replace(form, key=(self.variant, form.key))
        return self._form


def _form_of(call: Call) -> Form | None:
    try:
        return form_of(call)
    except Exception as error:  # arguments of any kind, and no memory to compare them: such a call runs alone
        if device.is_fatal(error):
            raise
        return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: with what its body returned, or with the error that ended it."""

    task: Task
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward that ran, and which tasks shared it."""

    tasks: tuple[Task, ...]
    component: str
    entry: str


@dataclass(slots=True)
class Stop:
    """A forward that gave way, and what it is for."""

    forward: Forward
    greenlet: LongForward
    fitted: Fitted  # on the modules while it runs; nothing where tasks share it


class Rendezvous:
    def __init__(
        self,
        *,
        max_calls: int = 8,
        merging: Merging = "unproven",
        verdicts: Mapping[str, bool] | None = None,
        salt: str = "",
        fence: device.Fence | None = None,
        every_layer: bool = False,
    ) -> None:
        """verdicts: of an earlier one on the same checkpoint. salt: what else they are only good for. fence: of the device.

        every_layer: forwards that are long between two blocks can stop before each of their layers.
        """
        self._joint = BatchedCalls(max_calls=max_calls, merging=merging, verdicts=verdicts or {}, salt=salt)
        self._fence = fence or device.Fence("cpu")
        self._waiting: list[Task] = []  # parked, oldest first
        self._mid_forward: Stop | None = None
        self._wrapped: list[tuple[Any, str, Any]] = []
        self._every_layer = every_layer
        self._places: dict[str, dict[int, YieldPoints]] = {}  # by component, then by id of the module
        self._fittings = ModuleState()

    @property
    def merging(self) -> Merging:
        return self._joint.merging

    @property
    def verdicts(self) -> dict[str, bool]:
        """ "component.entry digest" → merges, of each call structure tried so far."""
        return self._joint.verdicts

    @property
    def refused(self) -> list[int]:
        """Widths that ran out of memory in the last forward."""
        return self._joint.refused

    @property
    def proving(self) -> bool:
        """The last forward was a proof: its calls ran more than once."""
        return self._joint.proving

    @property
    def busy(self) -> bool:
        """Whether any task that is not canceled waits for a forward."""
        return self.mid_forward or any(not task.canceled for task in self._waiting)

    @property
    def mid_forward(self) -> bool:
        """Whether a forward that gave way is to go on for a task that is not canceled."""
        return self._mid_forward is not None and any(not task.canceled for task in self._mid_forward.forward.tasks)

    def wrap(self, component: str, owner: Any, entry: str) -> None:
        """Make `owner.entry` a meeting point for tasks. Undone by `unwrap`."""
        function = getattr(owner, entry)

        @functools.wraps(function)  # pipelines look at the signature of `forward`
        def meet(*args: Any, **kwargs: Any) -> Any:
            task = greenlet.getcurrent()
            if not isinstance(task, Task) or task.parent is None:
                return function(*args, **kwargs)
            dressed = task.around(function) if task.around and entry == "forward" else function
            call = Call(component, entry, dressed, args, kwargs)
            try:
                return task.parent.switch(call)
            finally:
                call.ambient.restore()

        places = self._places.setdefault(component, {})
        if isinstance(owner, nn.Module) and id(owner) not in places:
            places[id(owner)] = YieldPoints(owner, every_layer=entry in VAE_ENTRIES, may_get_more=self._every_layer)
            self._fittings.watch(component, owner)
        self._wrapped.append((owner, entry, vars(owner).get(entry)))
        setattr(owner, entry, meet)

    def unwrap(self) -> None:
        for owner, entry, before in reversed(self._wrapped):
            if before is None:
                delattr(owner, entry)  # the class's own method shows again
            else:
                setattr(owner, entry, before)
        self._wrapped.clear()
        for places in self._places.values():
            for place in places.values():
                place.remove()
        self._places.clear()
        self._fittings = ModuleState()  # the old one holds the modules

    def start(self, task: Task) -> Outcome | None:
        """Run `task` to its first parked call, or to its end."""
        return self._resume(task, task.switch)

    def cancel(self, task: Task) -> None:
        """Unwind a parked task's frames; what they held is free when this returns, or when the forward they share is over."""
        if task in self._waiting:
            self._waiting.remove(task)
        task.canceled = True
        task.park(None)
        home = torch_modes.current()
        while not task.dead:  # a `finally` in stock code may call a module, and so park once more
            try:
                with self._fittings.changed(task.fitted):
                    task.throw(TaskCanceled())
            except TaskCanceled:
                pass
            except Exception as error:  # stock code's own cleanup failed: the task has ended all the same
                if device.is_fatal(error):
                    raise
                logger.warning("cleanup of a canceled task failed", extra={"task": task.name}, exc_info=error)
            finally:
                home.restore()
        if self._mid_forward is not None and not self.mid_forward:
            self._abandon(self._mid_forward.greenlet)

    def peek(self, max_calls: int | None = None) -> Forward:
        """What the next `step` runs or goes on with. Needs `busy`."""
        if self._mid_forward is not None and self.mid_forward:
            return self._mid_forward.forward
        group, _ = self._pick(max_calls)
        call = group[0].parked
        assert call is not None
        return Forward(tuple(group), call.component, call.entry)

    def step(
        self, max_calls: int | None = None, should_yield: Callable[[], bool] = never_yield
    ) -> tuple[Forward, list[Outcome] | None]:
        """Run the group of the longest parked call, at most `max_calls`, and resume its tasks. Needs `busy`.

        None for the outcomes: it gave way inside the forward, and the next `step` goes on there.
        """
        stop = self._mid_forward or self._begin(max_calls)
        stop.greenlet.should_yield = should_yield
        home = torch_modes.current()
        try:
            with self._fittings.worn(stop.fitted, stop.forward.component):
                results: list[Result] | None = stop.greenlet.switch()
        finally:
            self._mid_forward = None if stop.greenlet.dead else stop
            home.restore()
        if self._mid_forward is not None or results is None:
            return stop.forward, None
        for place in self._places.get(stop.forward.component, {}).values():
            place.passed(stop.greenlet.longest_s)
        ended = [
            self._deliver(task, results.pop(0)) for task in stop.forward.tasks
        ]  # popped: from here it is the task's to free
        return stop.forward, [outcome for outcome in ended if outcome is not None]

    def _begin(self, max_calls: int | None) -> Stop:
        group, width = self._pick(max_calls)
        calls = [task.parked for task in group if task.parked is not None]
        form = group[0].form if len(group) > 1 else None
        for task in group:
            self._waiting.remove(task)
            task.park(None)
        forward = Forward(tuple(group), calls[0].component, calls[0].entry)
        fitted = group[0].fitted if len(group) == 1 else Fitted()
        return Stop(forward, LongForward(functools.partial(self._forward, calls, form, width)), fitted)

    def _forward(self, calls: list[Call], form: Form | None, width: int) -> list[Result]:
        """The body of a forward's greenlet: wait for the one before, run, and where somebody waits, for its own end too."""
        this = greenlet.getcurrent()
        assert isinstance(this, LongForward)
        while not self._fence.wait(this.should_yield):
            this.pause()
        results = self._joint.run(calls, form, width)
        this.note_stretch()
        self._fence.mark()
        while (
            this.should_yield() and not self._fence.passed
        ):  # handing out results may make stock code wait for the device
            this.pause()
        return results

    def _abandon(self, forward: LongForward) -> None:
        """End a forward whose tasks have all been canceled."""
        forward.should_yield = _always_yield  # what goes on in spite of the exception gets it again at its next block
        home = torch_modes.current()
        while not forward.dead:
            try:
                forward.throw(TaskCanceled())
            except TaskCanceled:
                pass
            except Exception as error:  # a module's own cleanup failed
                if device.is_fatal(error):
                    raise
            finally:
                home.restore()
        self._mid_forward = None

    def _pick(self, max_calls: int | None) -> tuple[list[Task], int]:
        """The longest parked task with those that can share its forward, and the width to run them at."""
        waiting = [task for task in self._waiting if not task.canceled]
        first = waiting[0]
        if not self._joint.enabled or len(waiting) == 1:
            return [first], 1
        if first.parked is not None and any(task.waits_where(first) for task in waiting[1:]):
            self._joint.meet(first.parked)
        if first.form is None:
            return [first], 1
        alike = [task for task in waiting if task.form is not None and task.form.key == first.form.key]
        take, width = self._joint.width(first.form, len(alike), max_calls)
        return alike[:take], width

    def _deliver(self, task: Task, result: Result) -> Outcome | None:
        if task.dead:  # canceled while its forward ran
            return None
        task.batch_peak = max(task.batch_peak, result.width)
        if result.error is not None:
            return self._resume(task, functools.partial(task.throw, result.error))
        return self._resume(task, functools.partial(task.switch, result.output))

    def _resume(self, task: Task, go: Callable[[], Any]) -> Outcome | None:
        home = torch_modes.current()
        try:
            with self._fittings.changed(task.fitted), task.dice.thrown():
                handed = go()
        except Exception as error:  # whatever stock code raises ends this task alone
            if device.is_fatal(error):
                raise
            return Outcome(task, error=error)
        finally:
            home.restore()
        if task.dead:
            return Outcome(task, result=handed)
        task.park(handed)
        self._waiting.append(task)
        return None


def _always_yield() -> bool:
    return True
