"""Has the layers of a model's decode steps compiled beside the device thread. One for each lane; device thread only.

Chats run with the layers as written at first. Meanwhile processes compile one layer for each number of rows
(`compile_process.py`) and leave the code in the compiler's cache on disk. What is there is then used between two steps
(`DecodeSteps.improve`), which takes a second for tracing, and nothing is compiled on the device thread. A number of
rows that fails, or whose code is not found, keeps the layers as written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from pipelines import device
from pipelines.block_calls import BlockCall, describe_call, materialize
from pipelines.chat.decode import attention  # noqa: F401  # registers what the layers attend with
from pipelines.chat.decode.compiled import (
    Forward,
    compiled_forward_of,
    compiled_layer,
    forwards_replaced,
    plain_arguments,
    repeated_layers,
)
from pipelines.chat.decode.options import Prepare
from pipelines.chat.decode.pages import Layer, Pages, reading
from pipelines.compile_process import CompileProcess, CompileTask

COMPILED = "Its decode steps run compiled, with {} chats at once."
NOT_COMPILED = "Its decode steps with {} chats are not compiled, which makes them slower: {}."
POLL_S = 0.25  # between two looks at the processes
PROCESS_BYTES = 2 << 30  # of the device, for each process: CUDA's own, a layer, its cache, and what tuning takes

logger = logging.getLogger(__name__)


class NoRoom(Exception):
    """The device has too little free memory for a process that compiles."""


class Preparation(Protocol):
    """Fills the compiler's cache on disk; see `CompileProcess`."""

    def results(self) -> Sequence[str]: ...

    def failures(self) -> Sequence[str] | None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LayerTask:
    """A layer in a decode step, and a cache of one page for it."""

    call: BlockCall
    rows: int
    page: tuple[int, ...]  # (tokens, kv_heads, head_dim)
    dtype: torch.dtype

    def compile(self, target: torch.device) -> None:
        layer, args, kwargs = materialize(self.call, target)
        with torch.inference_mode():
            args, kwargs = _made_here((args, kwargs))
            keys, values = torch.zeros(2, 1, *self.page, dtype=self.dtype, device=target)
            table = torch.zeros(1, self.rows, dtype=torch.int32, device=target)
            positions = torch.zeros(self.rows, dtype=torch.int32, device=target)
            with reading(Pages([Layer(keys, values, table)], positions), self.rows, 1):
                compiled_layer(layer.forward, self.rows)(*args, **kwargs)
        device.finish(str(target))


def _made_here(arguments: Any) -> Any:
    """Copies of the tensors. In inference mode they are such as the server's are, by which compiled code is looked up.

    One that is given twice stays one.
    """
    copies: dict[int, Any] = {}

    def copied(value: Any) -> Any:
        return copies.setdefault(id(value), value.clone()) if isinstance(value, torch.Tensor) else value

    return pytree.tree_map(copied, arguments)


def compile_beside(tasks: Sequence[CompileTask], *, device_name: str) -> Preparation:
    """Raises `NoRoom`, and OSError when no process can be started."""
    if device.has_own_memory(device_name) and (free := device.memory(device_name)[0]) < PROCESS_BYTES:
        raise NoRoom(f"{free >> 20} MiB of the device are free, compiling takes up to {PROCESS_BYTES >> 20}")
    return CompileProcess(tasks, device_name)


class StepCompiler:
    def __init__(self, model: Any, prepare: Prepare) -> None:
        """prepare: starts a preparation."""
        self._model, self._prepare = model, prepare
        self._preparations: list[tuple[Preparation, Sequence[int]]] = []  # with the rows of its tasks, in order
        self._begun = False
        self._looked_at = 0.0
        self.ready: list[int] = []  # rows whose code is in the cache, and which do not run compiled yet
        self.forwards: dict[int, Forward] = {}  # by rows: those that run compiled
        self._failures: dict[int, str] = {}

    @property
    def notes(self) -> list[str]:
        told = [COMPILED.format(_listed(self.forwards))] if self.forwards else []
        reasons = {reason: [n for n, why in self._failures.items() if why == reason] for reason in self.failures}
        return told + [NOT_COMPILED.format(_listed(rows), reason) for reason, rows in reasons.items()]

    @property
    def failures(self) -> Sequence[str]:
        return list(dict.fromkeys(self._failures.values()))

    @property
    def busy(self) -> bool:
        """Whether code is being prepared, or is ready and not used yet."""
        self.look()
        return bool(self._preparations or self.ready)

    def begin(self, describe: Callable[[int], Sequence[CompileTask]], widths: Sequence[int]) -> None:
        """Start to compile for these numbers of rows, once. describe: rows → tasks."""
        if self._begun:
            return
        self._begun = True
        # One row alone: its kernels are tuned, which takes longer than all others do together.
        for rows in ([n for n in widths if n == 1], [n for n in widths if n > 1]):
            if not rows:
                continue
            try:
                tasks = {n: describe(n) for n in rows}
                started = self._prepare([task for each in tasks.values() for task in each])
            except Exception as error:  # weights that cannot be described, no room, no process
                if device.is_fatal(error):
                    raise
                self._fail(rows, f"{type(error).__name__}: {error}"[:300])
                continue
            self._preparations.append((started, [n for n, each in tasks.items() for _ in each]))

    def look(self) -> None:
        """See what the processes have done since the last look."""
        if not self._preparations or time.monotonic() < self._looked_at + POLL_S:
            return
        self._looked_at = time.monotonic()
        still_at_it = []
        for preparation, rows in self._preparations:
            final = preparation.failures()
            results = preparation.results() if final is None else final
            for n in dict.fromkeys(rows):
                mine = [i for i, each in enumerate(rows) if each == n]
                if mine[-1] >= len(results) or n in (*self.ready, *self.forwards, *self._failures):
                    continue
                reasons = [results[i] for i in mine if results[i]]
                if reasons:
                    self._fail([n], reasons[0])
                else:
                    self.ready.append(n)
            if final is None:
                still_at_it.append((preparation, rows))
        self._preparations = still_at_it

    def take(self) -> tuple[int, Forward] | None:
        """A number of rows whose code is ready, and the forward that is to run from now on: see `used`, `failed`."""
        if not self.ready:
            return None
        rows = self.ready.pop(0)
        return rows, compiled_forward_of(self._model, rows)

    def used(self, rows: int, forward: Forward, seconds: float) -> None:
        self.forwards[rows] = forward
        logger.info("decode steps run compiled", extra={"rows": rows, "seconds": round(seconds, 3)})

    def failed(self, rows: int, reason: str) -> None:
        self.forwards.pop(rows, None)
        self._fail([rows], reason)

    def close(self) -> None:
        for preparation, _ in self._preparations:
            preparation.stop()
        self._preparations, self.ready = [], []
        self.forwards.clear()

    def _fail(self, rows: Sequence[int], reason: str) -> None:
        reason = reason.rstrip(".")
        self._failures.update(dict.fromkeys(rows, reason))
        logger.warning("decode steps run uncompiled", extra={"rows": list(rows), "reason": reason})


def layer_tasks(model: Any, rows: int, run: Callable[[], Any], caches: Sequence[Layer]) -> Sequence[LayerTask]:
    """What to compile for decode steps with so many rows: one layer of each kind among the model's layers.

    run: runs such a step. caches: of the layers, in their order.
    """
    layers = repeated_layers(model)
    tasks: dict[Any, LayerTask] = {}

    def describing(layer: Any, keys: torch.Tensor) -> Callable[..., Any]:
        own, kind = layer.forward, _kind_of(layer)

        def described(*args: Any, **kwargs: Any) -> Any:
            if kind not in tasks:
                call = describe_call(layer, *plain_arguments(args, kwargs))
                tasks[kind] = LayerTask(call, rows, tuple(keys.shape[1:]), keys.dtype)
            return own(*args, **kwargs)

        return described

    replaced = [describing(layer, cache.keys) for layer, cache in zip(layers, caches, strict=True)]
    with forwards_replaced(layers, replaced):
        run()
    return list(tasks.values())


def _kind_of(layer: torch.nn.Module) -> Any:
    """Layers of one kind share compiled code: they differ in nothing but their weights and their number."""
    values = (bool, int, float, str, type(None))
    return tuple(
        (name, attribute, value)
        for name, module in layer.named_modules()
        for attribute, value in sorted(vars(module).items())
        if isinstance(value, values) and attribute != "layer_idx"
    )


def _listed(numbers: Any) -> str:
    return ", ".join(map(str, sorted(numbers)))
