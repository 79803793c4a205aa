"""The lane of one resident diffusion pipeline, image or video: any stock pipeline, no code for its family. Device thread only."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import torch

from pipelines import device
from pipelines.batching.rendezvous import Forward, Rendezvous
from pipelines.batching.rng_state import RngState
from pipelines.batching.task import Outcome, Task
from pipelines.costs import CostLog, Meter
from pipelines.diffusion.arguments import BadCall
from pipelines.diffusion.lora import Adapters, BadAdapter
from pipelines.diffusion.request_scope import entry_points, keep_no_cache
from pipelines.diffusion.stock_call import Made, StockCall
from pipelines.host_offload import HostOffload
from pipelines.interface import (
    Canceled,
    DiffusionRequest,
    Failed,
    LaneStage,
    Lora,
    Merging,
    NextStep,
    Note,
    OutOfMemory,
    Rendered,
    Request,
    StepCost,
    Update,
    WeightsChanged,
    never_yield,
)


@dataclass(frozen=True, slots=True)
class InHand:
    """The quantum under way."""

    next_step: NextStep
    meter: Meter


class DiffusionLane:
    def __init__(
        self,
        pipeline: Any,
        *,
        kind: Literal["image", "video"],
        max_rows: int = 8,
        merging: Merging = "unproven",
        device_name: str = "cpu",
        verdicts: Mapping[str, bool] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        """verdicts: what an earlier lane of the same checkpoint proved. warnings: what a client should know of how it is held."""
        self.kind = kind
        self.warnings = tuple(warnings)
        self._pipeline = pipeline
        self._device_name = device_name
        self._rendezvous = Rendezvous(
            max_calls=max_rows,
            merging=merging,
            verdicts=verdicts,
            salt=_salt(pipeline, device_name),
            fence=device.Fence(device_name),
            every_layer=device_name.startswith("cpu"),
        )
        keep_no_cache(pipeline)
        entries = list(entry_points(pipeline))
        for component, module, entry in entries:
            self._rendezvous.wrap(component, module, entry)
        # A VAE has two entries and its weights once; a walk over them takes milliseconds.
        self._parking = HostOffload(dict.fromkeys((component, module) for component, module, _ in entries), device_name)
        self._adapters = Adapters(pipeline, self._reweighed)
        self._in_hand: InHand | None = None  # the quantum that gave way
        self._new: list[Task] = []
        self._running: dict[str, Task] = {}
        self._requests: dict[str, DiffusionRequest] = {}
        self._to_cancel: set[str] = set()
        self._updates: list[Update] = []
        self._costs = CostLog(device_name, always_measure_bytes=device_name.startswith("cuda"))
        place = None if device_name.startswith("cpu") else torch.device(device_name)
        self._call = StockCall(pipeline, kind, place, self._adapters, self._updates.append)

    @property
    def pipeline(self) -> Any:
        """The stock pipeline itself, to be called directly while the lane has no work."""
        return self._pipeline

    @property
    def components(self) -> Mapping[str, int]:
        return self._parking.components

    @property
    def parked(self) -> Mapping[str, int]:
        return self._parking.parked

    @property
    def weight_bytes(self) -> int:
        return sum(self.components.values())

    @property
    def mid_forward(self) -> bool:
        return self._rendezvous.mid_forward

    @property
    def cache_bytes(self) -> int:
        return 0

    @property
    def merging(self) -> Merging:
        return self._rendezvous.merging

    @property
    def verdicts(self) -> Mapping[str, bool]:
        """ "component.entry digest" → merges, of what has been proved so far: to be kept for the next lane of this checkpoint."""
        return self._rendezvous.verdicts

    def admit(self, request: Request) -> None:
        assert isinstance(request, DiffusionRequest)
        self._requests[request.id] = request
        around = functools.partial(self._adapters.around, request.loras)
        body = functools.partial(self._call.run, request, self._loras_in_use)
        self._new.append(
            Task(
                request.id,
                body,
                mergeable=not request.deterministic,
                variant=request.loras,
                wrap_forward=around,
                rng_state=RngState(request.seed, self._device_name),
            )
        )

    def cancel(self, request_id: str) -> None:
        if request_id in self._requests:
            self._to_cancel.add(request_id)
            if request_id in self._running:
                self._running[request_id].canceled = True
            self._new = [task for task in self._new if task.name != request_id]

    def has_work(self) -> bool:
        return bool(self._requests)

    def take_costs(self) -> Sequence[Note]:
        return self._costs.take()

    def next_step(self) -> NextStep | None:
        if self._starts_new or not self._rendezvous.busy:
            return None
        return self._next_step(self._rendezvous.peek())

    def park(self, names: Sequence[str]) -> int:
        in_use = {self._rendezvous.peek().component} if self._rendezvous.mid_forward else set()
        return self._parking.park([name for name in names if name not in in_use])

    def unpark(self, names: Sequence[str]) -> int:
        return self._parking.unpark(names)

    def resize_cache(self, n_bytes: int) -> int:
        return 0

    def close(self) -> None:
        assert not self._requests, "a lane is closed when nothing runs on it"
        self._rendezvous.unwrap()
        self._pipeline = None
        del self._call, self._adapters  # they hold the pipeline too
        self._parking = HostOffload((), self._device_name)
        device.release_cache()

    @torch.no_grad()  # as the stock pipelines run; tensors made in inference mode would not tell that they were written to
    def step(self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield) -> Sequence[Update]:
        self._end_canceled()
        if max_rows == 0:
            pass  # only the ends of canceled requests are wanted: the weights may be parked
        elif self._starts_new:
            self._start_new()
        elif self._rendezvous.busy:
            self._run(max_rows, should_yield)
        updates = list(self._updates)
        self._updates.clear()  # the same list: the stock call tells into it
        return updates

    def _run(self, max_rows: int | None, should_yield: Callable[[], bool]) -> None:
        """Begin a quantum, or go on with the one in hand, until it is over or gives way."""
        hand = self._in_hand or self._take_in_hand(max_rows)
        with hand.meter:
            _, outcomes = self._rendezvous.step(max_rows, should_yield)
        self._in_hand = None if outcomes is not None else hand
        if outcomes is None:
            return
        self._note(hand)
        for outcome in outcomes:
            self._end(outcome)

    def _take_in_hand(self, max_rows: int | None) -> InHand:
        next_step = self._next_step(self._rendezvous.peek(max_rows))
        return InHand(next_step, self._costs.meter(_key(next_step)))

    @property
    def _starts_new(self) -> bool:
        """LoRAs are brought in between forwards: one that gave way must find the modules as it left them."""
        wants_loras = any(self._requests[task.name].loras for task in self._new)
        return bool(self._new) and not (self._rendezvous.mid_forward and wants_loras)

    def _start_new(self) -> None:
        new, self._new = self._new, []
        if any(self._requests[task.name].preview for task in new):
            self._call.previews.fit(None if "vae" in self.parked else getattr(self._pipeline, "vae", None))
        for task in new:
            self._running[task.name] = task
            outcome = self._rendezvous.start(task)
            if outcome is not None:
                self._end(outcome)

    def _end_canceled(self) -> None:
        for request_id in self._to_cancel:
            task = self._running.pop(request_id, None)
            if task is not None:
                self._rendezvous.cancel(task)
            self._forget(request_id)
            self._updates.append(Canceled(request_id))
        self._to_cancel.clear()
        if not self._rendezvous.mid_forward:
            self._in_hand = None

    def _end(self, outcome: Outcome) -> None:
        name = outcome.task.name
        if outcome.error is not None:
            self._updates.append(_failure(outcome.task, outcome.error))
        else:
            made: Made = outcome.result
            if made.finite:
                peak = outcome.task.batch_peak
                self._updates.append(Rendered(name, made.frames, peak, made.scheduler, made.warnings, made.sound))
            else:
                self._updates.append(Failed(name, "invalid_output", "The model produced values that are not numbers."))
        self._running.pop(name, None)
        self._forget(name)

    def _forget(self, request_id: str) -> None:
        self._requests.pop(request_id, None)
        self._call.denoising.discard(request_id)

    def _loras_in_use(self) -> set[Lora]:
        return {lora for request in self._requests.values() for lora in request.loras}

    def _reweighed(self) -> None:
        self._parking.refresh()
        self._costs.add(WeightsChanged())

    def _note(self, hand: InHand) -> None:
        q = hand.next_step
        for width in self._rendezvous.out_of_memory_widths:
            self._costs.add(OutOfMemory(q.component, q.entry, q.shape, q.units, width, q.request_ids))
        other = (
            self._rendezvous.out_of_memory_widths or self._rendezvous.was_proof
        )  # more than this quantum was measured
        cost = StepCost(q.shape, q.rows, hand.meter.seconds, q.request_ids, q.stage, q.component, q.entry, q.units)
        self._costs.add_step(cost, _key(q), None if other else hand.meter.peak_bytes)

    def _next_step(self, forward: Forward) -> NextStep:
        names = tuple(task.name for task in forward.tasks if not task.canceled)
        request = self._requests[names[0]]
        if forward.entry == "decode":
            stage: LaneStage = "decoding"
        else:
            stage = "denoising" if request.id in self._call.denoising else "encoding"
        return NextStep(forward.component, forward.entry, stage, request.shape, request.units, len(names), names)


def _key(next_step: NextStep) -> tuple[str, str, str, int]:
    """What takes the same bytes each time."""
    return next_step.component, next_step.entry, next_step.shape, next_step.rows


def _salt(pipeline: Any, device_name: str) -> str:
    """What a merge verdict hangs on besides the checkpoint: the code that runs, the kind of device, the precision."""
    return (
        f"torch {torch.__version__}, diffusers {diffusers.__version__}, {device_name.split(':')[0]}, {pipeline.dtype}"
    )


def _failure(task: Task, error: BaseException) -> Failed:
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, BadCall | BadAdapter):
        return Failed(task.name, "bad_request", str(error), detail)
    if isinstance(error, (ValueError, TypeError)) and task.n_calls == 0:  # its own check of its arguments
        return Failed(task.name, "bad_request", "The pipeline refused the arguments of this job.", detail)
    if device.is_out_of_memory(error):
        return Failed(task.name, "out_of_memory", "The device ran out of memory for this job, even alone.", detail)
    return Failed(task.name, "model_error", "The pipeline failed on this job.", detail)
