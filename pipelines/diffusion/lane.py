"""The lane of one resident diffusion pipeline, image or video: any stock pipeline, without code for its family.

Device thread only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import diffusers
import torch

from pipelines import device
from pipelines.batching.rendezvous import Forward, Rendezvous
from pipelines.batching.rng_state import RngState
from pipelines.batching.task import Outcome, Task
from pipelines.batching.wrapped_modules import WrappedModules
from pipelines.diffusion.adapters.borrowed import Borrowed
from pipelines.diffusion.adapters.lent_modules import LentModules, OpenAdapter, ReadAhead, opens_none, reads_nothing
from pipelines.diffusion.compiled_blocks import CompiledBlocks
from pipelines.diffusion.graphs.forward_graphs import Entry, ForwardGraphs
from pipelines.diffusion.inputs.reader import has_inputs
from pipelines.diffusion.lora.adapters import Adapters
from pipelines.diffusion.next_step import next_step_of
from pipelines.diffusion.outcome import end_of
from pipelines.diffusion.request_scope import disable_kv_cache, entry_points
from pipelines.diffusion.step_cache import StepCache
from pipelines.diffusion.step_costs import StepCosts, StepInProgress
from pipelines.diffusion.stock_call import StockCall
from pipelines.diffusion.task_pipelines import TaskPipelines
from pipelines.diffusion.waiting_tasks import WaitingTasks
from pipelines.diffusion_interface import DiffusionRequest, Lora
from pipelines.host_offload import HostOffload
from pipelines.interface import GRAPHS, IN_TILES, Canceled, Merging, NextStep, Note, Request, Update, never_yield


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
        notes: Sequence[str] = (),
        open_adapter: OpenAdapter = opens_none,
        read_ahead: ReadAhead = reads_nothing,
    ) -> None:
        """verdicts: `verdicts` of an earlier lane of the same checkpoint. warnings, notes: see `Lane`.

        open_adapter, read_ahead: open the modules that requests borrow, and read their files before.
        """
        self.kind = kind
        self.warnings = tuple(warnings)
        self._notes = tuple(notes)
        self._pipeline = pipeline
        self._device_name = device_name
        compute_device = None if device_name.startswith("cpu") else torch.device(device_name)
        self._modules = WrappedModules(every_layer=device_name.startswith("cpu"), compute_device=compute_device)
        self._rendezvous = Rendezvous(
            self._modules,
            max_calls=max_rows,
            merging=merging,
            verdicts=verdicts,
            salt=_salt(pipeline, device_name),
            fence=device.Fence(device_name),
        )
        disable_kv_cache(pipeline)
        entries = list(entry_points(pipeline))
        for component, module, entry in entries:
            self._modules.wrap(component, module, entry)
        # A VAE has two entries but its weights count once.
        components = dict.fromkeys((component, module) for component, module, _ in entries)
        self._host_offload = HostOffload(components, device_name)
        self._adapters = Adapters(pipeline, self._note_changed_weights)
        self._compiled = CompiledBlocks(())
        self._graphs = ForwardGraphs(None, device_name)
        self._in_progress: StepInProgress | None = None
        self._waiting = WaitingTasks()
        self._running: dict[str, Task] = {}
        self._requests: dict[str, DiffusionRequest] = {}
        self._to_cancel: set[str] = set()  # ids of requests
        self._updates: list[Update] = []
        self._costs = StepCosts(device_name)
        self._lent = LentModules(
            open_adapter, read_ahead, self._modules, self._host_offload, self._costs.weights_changed
        )
        self._borrowed = Borrowed(self._lent)
        self._stock_call = StockCall(
            TaskPipelines(pipeline),
            kind,
            compute_device,
            self._adapters,
            self._lent,
            self._borrowed,
            self._updates.append,
        )

    @property
    def pipeline(self) -> Any:
        """The stock pipeline, which may be called directly while the lane has no work."""
        return self._pipeline

    @property
    def notes(self) -> Sequence[str]:
        return (*self._notes, *self._compiled.notes, *self._graphs.notes)

    @property
    def components(self) -> Mapping[str, int]:
        n_bytes = self._graphs.n_bytes
        return {**self._host_offload.components, **({GRAPHS: n_bytes} if n_bytes else {})}

    @property
    def parked(self) -> Mapping[str, int]:
        return self._host_offload.parked

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
        """Whether each kind of call proved so far merges, by "component.entry digest"."""
        return self._rendezvous.verdicts

    def compile_blocks(self, compiled: CompiledBlocks) -> None:
        """Let these blocks of the pipeline be compiled beside the jobs that come from now on."""
        self._compiled = compiled
        self._modules.keep_whole(compiled.modules)

    def record_forwards(self, graphs: ForwardGraphs) -> None:
        """Let forwards of jobs that come from now on be recorded as CUDA graphs."""
        self._graphs = graphs
        graphs.on_resize = self._costs.weights_changed

    def admit(self, request: Request) -> None:
        assert isinstance(request, DiffusionRequest)
        self._requests[request.id] = request
        step_cache = None if request.speed == "exact" else StepCache(request.speed)
        body = functools.partial(self._stock_call.run, request, self._loras_in_use, step_cache)
        read_adapters = self._lent.reading_ahead(request.adapters)
        reads = has_inputs(request) or read_adapters is not None
        if reads:
            media = self._waiting.reader.begin(request, type(self._pipeline).__name__, read_adapters)
            body = functools.partial(body, media)
        task = Task(
            request.id,
            body,
            mergeable=not request.deterministic,
            variant=request.loras,
            wrap_forward=functools.partial(self._wrap_forward, request),
            rng_state=RngState(request.seed, self._device_name),
            step_cache=step_cache,
        )
        self._waiting.add(task, is_read=reads)

    def _wrap_forward(self, request: DiffusionRequest, function: Callable[..., Any]) -> Callable[..., Any]:
        """What surrounds each forward that the request asks for."""
        written = self._adapters.wrap_forward(request.loras, function)
        may_compile = not (request.deterministic or request.loras or request.inputs.image_prompts)
        run = self._compiled.wrap_forward(written, allowed=may_compile)
        task = self._running.get(request.id)
        if not self._graphs.enabled or task is None or request.id not in self._stock_call.denoising:
            return run
        changes = task.module_changes
        return self._graphs.wrap_forward(
            Entry(function, written, run),
            variant=(request.loras, may_compile),
            job=request.id,
            code=lambda: self._compiled.version,
            changed=lambda: bool(changes.processors or changes.settings or changes.hooks),
        )

    def cancel(self, request_id: str) -> None:
        if request_id in self._requests:
            self._to_cancel.add(request_id)
            if request_id in self._running:
                self._running[request_id].canceled = True
            self._waiting.remove(request_id)

    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def waits(self) -> bool:
        return not (self._rendezvous.busy or self._to_cancel) and self._waiting.only_reads

    def take_costs(self) -> Sequence[Note]:
        return self._costs.take()

    def next_step(self) -> NextStep | None:
        if self._starts_tasks or not self._rendezvous.busy:
            return None
        return self._next_step(self._rendezvous.peek())

    def park(self, names: Sequence[str]) -> int:
        in_use = {self._rendezvous.peek().component} if self._rendezvous.mid_forward else set()
        freed = self._graphs.drop()  # they hold addresses of weights
        return freed + self._host_offload.park([name for name in names if name not in in_use])

    def unpark(self, names: Sequence[str]) -> int:
        self._graphs.drop()
        return self._host_offload.unpark(names)

    def drop_adapters(self, components: Sequence[str]) -> None:
        if GRAPHS in components:
            self._graphs.drop_for_memory()
        elif any(component in self._lent.held for component in components):
            self._graphs.drop()  # which hold the modules of their forwards
        in_use = {adapter.component for request in self._requests.values() for adapter in request.adapters}
        leaving = [component for component in components if component not in in_use]
        self._borrowed.forget(leaving)
        self._lent.drop(leaving)

    def resize_cache(self, n_bytes: int) -> int:
        return 0

    def close(self) -> None:
        assert not self._requests, "a lane is closed when nothing runs on it"
        self._waiting.close()
        self._graphs.close()
        self._lent.drop([*self._lent.held])
        self._modules.unwrap()
        self._compiled.close()
        self._pipeline = None
        del self._stock_call, self._adapters, self._borrowed, self._lent  # they hold the pipeline
        self._host_offload = HostOffload((), self._device_name)
        device.release_cache()

    @torch.no_grad()  # as in stock pipelines; tensors made in inference mode do not count the writes to them
    def step(
        self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield, in_tiles: bool = False
    ) -> Sequence[Update]:
        self._end_canceled()
        if max_rows == 0:
            pass  # only canceled requests are to end, and the weights may be parked
        elif self._starts_tasks:
            self._start_tasks()
        elif self._rendezvous.busy:
            self._run(max_rows, should_yield, in_tiles)
        else:
            self._waiting.wait(should_yield)
        self._waiting.collect()
        updates = list(self._updates)
        self._updates.clear()  # in place: the stock call appends to this list
        return updates

    def _run(self, max_rows: int | None, should_yield: Callable[[], bool], in_tiles: bool) -> None:
        """Begin a forward, or resume the one in progress, until it is over or preempted."""
        current = self._in_progress or self._begin(max_rows, in_tiles)
        with current.meter:
            _, outcomes = self._rendezvous.step(max_rows, should_yield, in_tiles)
        self._in_progress = None if outcomes is not None else current
        if outcomes is None:
            return
        self._note(current)
        for outcome in outcomes:
            self._end(outcome)

    def _begin(self, max_rows: int | None, in_tiles: bool) -> StepInProgress:
        next_step = self._next_step(self._rendezvous.peek(max_rows))
        if in_tiles:
            next_step = replace(next_step, entry=next_step.entry + IN_TILES)
        return self._costs.begin(next_step)

    @property
    def _starts_tasks(self) -> bool:
        """Whether the next step starts new tasks.

        Tasks that load LoRAs start between forwards: a preempted forward must find the modules as it left them.
        """
        wants_loras = any(self._requests[task.name].loras for task in self._waiting.ready)
        return bool(self._waiting.ready) and not (self._rendezvous.mid_forward and wants_loras)

    def _start_tasks(self) -> None:
        new = self._waiting.take()
        if any(self._requests[task.name].preview for task in new) and "vae" not in self.parked:
            self._stock_call.previews.fit(getattr(self._pipeline, "vae", None))
        for task in new:
            self._running[task.name] = task
            # What it borrows is loaded before its own code runs. A failure ends this task alone.
            failure = self._lent.load(self._requests[task.name].adapters)
            outcome = self._rendezvous.start(task) if failure is None else Outcome(task, error=failure)
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
            self._in_progress = None

    def _end(self, outcome: Outcome) -> None:
        self._updates.append(end_of(outcome))
        self._compiled.job_ended()
        name = outcome.task.name
        self._running.pop(name, None)
        self._forget(name)

    def _forget(self, request_id: str) -> None:
        self._requests.pop(request_id, None)
        self._stock_call.denoising.discard(request_id)

    def _loras_in_use(self) -> set[Lora]:
        return {lora for request in self._requests.values() for lora in request.loras}

    def _note_changed_weights(self) -> None:
        self._graphs.drop()
        self._host_offload.refresh()
        self._compiled.refresh()
        self._costs.weights_changed()

    def _note(self, current: StepInProgress) -> None:
        widths = self._rendezvous.out_of_memory_widths
        self._costs.ran_out_of_memory(current.next_step, widths)
        recorded, replayed = self._graphs.take_delay(), self._graphs.take_replay()
        if self._compiled.take_delay():
            self._rendezvous.salt = _salt(self._pipeline, self._device_name) + ", compiled"
            return  # the seconds of the compiler say nothing about the next forward
        if recorded:
            return
        self._costs.ended(current, ran_once=not (widths or self._rendezvous.was_proof or replayed))

    def _next_step(self, forward: Forward) -> NextStep:
        names = tuple(task.name for task in forward.tasks if not task.canceled)
        request = self._requests[names[0]]
        denoising = request.id in self._stock_call.denoising
        return next_step_of(forward, request, names, denoising=denoising)


def _salt(pipeline: Any, device_name: str) -> str:
    """What a merge verdict depends on besides the checkpoint: the code that runs, the kind of device, the dtype."""
    return (
        f"torch {torch.__version__}, diffusers {diffusers.__version__}, {device_name.split(':')[0]}, {pipeline.dtype}"
    )
