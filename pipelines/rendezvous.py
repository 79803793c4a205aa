"""Step-level batching of code that was written to run alone. Device thread only.

A task runs stock code in a greenlet. The modules that cost device time have their entry points wrapped: called inside
a task, an entry point parks the call here and suspends the task; called outside, it runs as ever. `step` takes the
calls that can share one forward, runs them as one batch, hands each task its rows and resumes it until it parks
again or ends. So tasks that know nothing of each other join and leave the batch at every call.

Merging is proved before it is trusted (`proof.py`): the first time calls of some structure could merge, they run both
ways, and where the results differ that structure is never merged; its calls still take turns.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import greenlet

from pipelines import device
from pipelines.interface import Merging
from pipelines.merging import Call, Form, Structure, Unmergeable, bucket, form_of, generators_of, run_merged
from pipelines.proof import agree


class TaskCanceled(BaseException):
    """Thrown into a parked task to end it. Not an Exception, so that no stock code swallows it."""


class Task(greenlet.greenlet):
    """Stock code that is running. `mergeable` False keeps all its calls alone."""

    def __init__(self, name: str, body: Callable[[], Any], *, mergeable: bool = True) -> None:
        super().__init__(body)
        self.name = name
        self.mergeable = mergeable
        self.parked: Call | None = None
        self.calls = 0  # that have parked so far
        self.batch_peak = 1  # widest forward this task had a part in
        self._form: Form | None = None

    def park(self, call: Call | None) -> None:
        self.parked, self._form = call, None
        self.calls += call is not None

    @property
    def form(self) -> Form | None:
        """Of the parked call. Worked out when asked for: with one task running nobody asks."""
        if self._form is None and self.parked is not None and self.mergeable:
            self._form = form_of(self.parked)
        return self._form


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


@dataclass(frozen=True, slots=True)
class Result:
    """What one parked call gave, and in how wide a forward."""

    output: Any = None
    error: BaseException | None = None
    width: int = 1


class Rendezvous:
    def __init__(self, *, max_calls: int = 8, merging: Merging = "unproven") -> None:
        self.max_calls = max_calls
        self._never = merging == "off"
        self._verdicts: dict[Structure, bool] = {}  # call structure → proved to merge
        self._seen: Counter[Structure] = Counter()  # call structure → groups that could have merged
        self._too_wide: dict[Hashable, int] = {}  # call shape → narrowest width that ran out of memory
        self._waiting: list[Task] = []  # parked, oldest first
        self._wrapped: list[tuple[Any, str, Any]] = []

    @property
    def merging(self) -> Merging:
        """The verdict on the calls there are most of: those made at every step."""
        if self._never:
            return "off"
        if not self._verdicts:
            return "unproven"
        most = max(self._verdicts, key=lambda structure: self._seen[structure])
        return "on" if self._verdicts[most] else "off"

    @property
    def verdicts(self) -> list[tuple[str, str, bool]]:
        """(component, entry, merges) of each call structure tried so far."""
        return [(str(structure[0]), str(structure[1]), merges) for structure, merges in self._verdicts.items()]

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

        self._wrapped.append((owner, entry, vars(owner).get(entry)))
        setattr(owner, entry, meet)

    def unwrap(self) -> None:
        for owner, entry, before in reversed(self._wrapped):
            if before is None:
                delattr(owner, entry)  # the class's own method shows again
            else:
                setattr(owner, entry, before)
        self._wrapped.clear()

    def start(self, task: Task) -> Outcome | None:
        """Run `task` to its first parked call, or to its end."""
        return self._resume(task, task.switch)

    def cancel(self, task: Task) -> None:
        """Unwind a parked task's frames; what they held is free when this returns."""
        self._waiting.remove(task)
        task.park(None)
        while not task.dead:  # a `finally` in stock code may call a module, and so park once more
            with contextlib.suppress(TaskCanceled):
                task.throw(TaskCanceled())

    def peek(self) -> Forward:
        """What the next `step` would run, with no bound on its calls. Needs `busy`."""
        group, _ = self._pick()
        call = group[0].parked
        assert call is not None
        return Forward(tuple(group), call.component, call.entry)

    def step(self, max_calls: int | None = None) -> tuple[Forward, list[Outcome]]:
        """Run the group of the longest parked call, at most `max_calls`, and resume its tasks. Needs `busy`."""
        group, width = self._pick(max_calls)
        if len(group) > 1 and (form := group[0].form) is not None:
            self._seen[form.structure] += 1
        calls = [task.parked for task in group if task.parked is not None]
        forms = [task.form for task in group] if len(group) > 1 else []
        for task in group:
            self._waiting.remove(task)
            task.park(None)
        forward = Forward(tuple(group), calls[0].component, calls[0].entry)
        results = self._run(calls, forms[0], width) if forms and forms[0] else [_run_alone(calls[0])]
        del calls
        ended = [self._deliver(task, results.pop(0)) for task in group]  # popped: from here it is the task's to free
        return forward, [outcome for outcome in ended if outcome is not None]

    def _pick(self, max_calls: int | None = None) -> tuple[list[Task], int]:
        """The longest parked task with those that can share its forward, and the width to run them at."""
        first = self._waiting[0]
        if self._never or len(self._waiting) == 1 or first.form is None:
            return [first], 1
        form = first.form
        alike = [task for task in self._waiting if task.form is not None and task.form.key == form.key]
        if not self._verdicts.get(form.structure, True):
            return [first], 1
        most = min(self.max_calls, max_calls or self.max_calls, self._too_wide.get(form.shape, 2 * self.max_calls) // 2)
        take, width = bucket(len(alike), most)
        return alike[:take], width

    def _run(self, calls: list[Call], form: Form, width: int) -> list[Result]:
        """One result per call."""
        if len(calls) == 1:
            return [_run_alone(calls[0])]
        if form.structure not in self._verdicts:
            return self._prove(calls, form, width)
        try:
            return [Result(output, width=width) for output in run_merged(calls, form.rows, width)]
        except Unmergeable:
            self._verdicts[form.structure] = False
        except Exception as error:  # stock code may raise anything; each call gets its own below
            if device.is_fatal(error):
                raise
            if device.is_out_of_memory(error):
                self._too_wide[form.shape] = width
        # Outside the except block: the failed frames have let go of their tensors.
        device.release_cache()
        half = width // 2
        parts = [part for part in (calls[:half], calls[half:]) if part]
        return [result for part in parts for result in self._run(part, form, _power_of_two(len(part)))]

    def _prove(self, calls: list[Call], form: Form, width: int) -> list[Result]:
        """Run the calls alone, and merged to compare; the structure is merged from now on if they agree."""
        states = _generator_states(calls)
        results = [_run_alone(call) for call in calls]
        if any(result.error is not None for result in results):
            return results  # nothing learned
        try:
            drew = states != _generator_states(calls)
            self._verdicts[form.structure] = not drew and agree(calls, [r.output for r in results], form.rows, width)
        except Exception as error:
            if not device.is_out_of_memory(error):
                raise
            self._too_wide[form.shape] = width  # no verdict: proved again, narrower
        return results

    def _deliver(self, task: Task, result: Result) -> Outcome | None:
        task.batch_peak = max(task.batch_peak, result.width)
        if result.error is not None:
            return self._resume(task, functools.partial(task.throw, result.error))
        return self._resume(task, functools.partial(task.switch, result.output))

    def _resume(self, task: Task, go: Callable[[], Any]) -> Outcome | None:
        try:
            handed = go()
        except Exception as error:  # whatever stock code raises ends this task alone
            if device.is_fatal(error):
                raise
            return Outcome(task, error=error)
        if task.dead:
            return Outcome(task, result=handed)
        task.park(handed)
        self._waiting.append(task)
        return None


def _run_alone(call: Call) -> Result:
    try:
        return Result(call.run())
    except Exception as error:  # handed to the task that made the call
        if device.is_fatal(error):
            raise
        if not device.is_out_of_memory(error):
            return Result(error=error)
        failure = error.with_traceback(None)
    device.release_cache()
    return _run_tiled(call, failure)


def _run_tiled(call: Call, failure: BaseException) -> Result:
    """The last resort for one call: a VAE decode in tiles."""
    vae: Any = getattr(call.function, "__self__", None)
    if call.entry != "decode" or not hasattr(vae, "enable_tiling"):
        return Result(error=failure)
    try:
        vae.enable_tiling()
        return Result(call.run())
    except Exception as error:  # not every VAE that has the method can; handed to the task
        if device.is_fatal(error):
            raise
        return Result(error=error.with_traceback(None) if device.is_out_of_memory(error) else failure)
    finally:
        with contextlib.suppress(NotImplementedError):
            vae.disable_tiling()


def _generator_states(calls: list[Call]) -> list[bytes]:
    return [bytes(generator.get_state().numpy()) for call in calls for generator in generators_of(call)]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
