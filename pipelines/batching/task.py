"""One run of stock code, suspended at each call of a module that costs device time. Device thread only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import greenlet
import torch

from pipelines import device
from pipelines.batching.merging import Call, CallSignature, signature_of
from pipelines.batching.module_state import ModuleChanges
from pipelines.batching.rng_state import RngState


class TaskCanceled(BaseException):
    """Thrown into a suspended task to end it. Not an `Exception`, so that stock code does not swallow it."""


class StepCache(Protocol):
    """Answers some calls of a task from earlier ones of the same task."""

    def call(self, component: str, arguments: Sequence[Any], compute: Callable[[], Any]) -> Any:
        """Return what `compute` returns, a forward of `component` with these arguments, or something in its place."""


class Task(greenlet.greenlet):
    """A greenlet that runs stock code. `Rendezvous` starts, suspends and resumes it."""

    def __init__(
        self,
        name: str,
        body: Callable[[], Any],
        *,
        mergeable: bool = True,
        variant: Hashable = None,
        wrap_forward: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
        rng_state: RngState | None = None,
        step_cache: StepCache | None = None,
    ) -> None:
        """mergeable: False runs each of its calls alone. variant: only calls of tasks with the same variant merge.

        wrap_forward: applied to each `forward` that the task calls. rng_state: torch's generators while the task runs.
        step_cache: asked before each `forward` of the task; it belongs to this task alone.
        """
        super().__init__(body)
        self.name = name
        self.mergeable = mergeable
        self.variant = variant
        self.wrap_forward = wrap_forward
        self.rng_state = rng_state or RngState(0)
        self.step_cache = step_cache
        self.module_changes = ModuleChanges()
        self.dtypes: dict[int, torch.dtype] = {}  # that it wants shared modules to run in, by id of the module
        self.pending_call: Call | None = None  # the call at which the task is suspended, until its forward begins
        self.canceled = False  # takes part in no further forward; `Rendezvous.cancel` may still have to unwind it
        self.n_calls = 0  # calls at which the task was suspended so far
        self.batch_peak = 1  # calls in the widest forward that the task took part in
        self.tiled = False  # a VAE decoded in tiles for it, to save memory
        self._signature: CallSignature | None = None

    def suspend_at(self, call: Call) -> None:
        self.pending_call, self._signature = call, None
        self.n_calls += 1

    def clear_call(self) -> None:
        self.pending_call = self._signature = None

    def waits_at_same_entry(self, other: Task) -> bool:
        one, two = self.pending_call, other.pending_call
        return one is not None and two is not None and (one.component, one.entry) == (two.component, two.entry)

    @property
    def signature(self) -> CallSignature | None:
        """The signature of the pending call; None when the call cannot share a forward.

        Computed when first needed: with one task running it never is.
        """
        call, changes = self.pending_call, self.module_changes
        if self._signature is None and call is not None and self.mergeable and call.component not in changes.hooked:
            signature = _signature_of(call)
            variant = self.variant, changes.identities.get(call.component)
            self._signature = signature and replace(signature, key=(variant, signature.key))
        return self._signature


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: with the result that its body returned, or with an error."""

    task: Task
    result: Any = None
    error: BaseException | None = None


def _signature_of(call: Call) -> CallSignature | None:
    try:
        return signature_of(call)
    except Exception as error:  # an argument of a kind that cannot be compared, or no memory for the comparison
        if device.is_fatal(error):
            raise
        return None
