"""The lane of one resident embedding model: texts of all requests share forwards. Device thread only.

`queue.py` chooses which texts run together. A forward runs in a greenlet of its own and yields between the layers of
the model when other work waits, so that a chat beside it does not wait for a whole forward.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import greenlet
import numpy as np
import torch
from numpy.typing import NDArray

from pipelines import device
from pipelines.batching import torch_modes
from pipelines.batching.preemption import PreemptibleForward, YieldPoints
from pipelines.concurrency import ConcurrencyLimit
from pipelines.costs import CostLog, Meter
from pipelines.embedding.encoder import Encoder
from pipelines.embedding.open_requests import OpenRequests
from pipelines.embedding.queue import EmbeddingQueue, Row, Rows, shape_of_width
from pipelines.embedding_interface import EmbeddingRequest
from pipelines.fault_points import reach
from pipelines.host_offload import HostOffload
from pipelines.interface import (
    Canceled,
    Failed,
    FailureCode,
    Merging,
    NextStep,
    Note,
    OutOfMemory,
    Request,
    StepCost,
    Update,
    never_yield,
)

COMPONENT = "model"
# Tokens of one forward with their padding. More do not make a device busier, and would take longer and more memory.
STEP_TOKENS = {"cpu": 1024, "cuda": 16_384}
UNBATCHED_WARNING = "This architecture cannot share forwards: its texts take turns, one at a time."


@dataclass(slots=True)
class _Forward:
    """The forward under way, which may have yielded."""

    rows: Rows
    greenlet: PreemptibleForward
    meter: Meter


class EmbeddingLane:
    kind: Literal["embedding"] = "embedding"
    verdicts: Mapping[str, bool] = MappingProxyType({})  # `merging` holds for the whole model
    cache_bytes = 0

    def __init__(
        self,
        encoder: Encoder,
        *,
        max_tokens: int,
        merging: Merging = "on",
        step_tokens: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """max_tokens: of one text. merging: "off" for models that fail the proof (`proof.py`).

        step_tokens: of one forward; None: as many as suit the device. notes: see `Lane`.
        """
        self.merging: Merging = merging
        self.warnings: Sequence[str] = (UNBATCHED_WARNING,) if merging == "off" else ()
        self.notes = tuple(notes)
        name = str(encoder.device)
        self._encoder: Encoder | None = encoder
        self._dimensions = encoder.dimensions
        self._max_tokens = max_tokens
        self._tokens = ConcurrencyLimit(step_tokens or STEP_TOKENS[encoder.device.type])
        self._queue = EmbeddingQueue()
        self._requests = OpenRequests(encoder.dimensions, encoder.normalizes)
        self._canceled: list[str] = []
        self._updates: list[Update] = []
        self._costs = CostLog(name, always_measure_bytes=name.startswith("cuda"))
        self._host_offload = HostOffload([(COMPONENT, encoder)], name)
        self._yield_points: YieldPoints | None = YieldPoints(encoder, may_add_layers=True)
        self._forward: _Forward | None = None

    @property
    def components(self) -> Mapping[str, int]:
        return self._host_offload.components

    @property
    def parked(self) -> Mapping[str, int]:
        return self._host_offload.parked

    @property
    def weight_bytes(self) -> int:
        return sum(self.components.values())

    @property
    def mid_forward(self) -> bool:
        return self._forward is not None and bool(self._requests.wanted(self._forward.rows.rows))

    def admit(self, request: Request) -> None:
        assert isinstance(request, EmbeddingRequest)
        if (refusal := self._refusal(request)) is not None:
            self._updates.append(Failed(request.id, *refusal))
            return
        self._requests.add(request)
        self._queue.add(request)

    def cancel(self, request_id: str) -> None:
        if self._requests.forget(request_id):
            self._queue.remove(request_id)
            self._canceled.append(request_id)

    def has_work(self) -> bool:
        return bool(self._requests or self._canceled or self._updates)

    @property
    def waits(self) -> bool:
        return False

    def take_costs(self) -> Sequence[Note]:
        return self._costs.take()

    def next_step(self) -> NextStep | None:
        if self._forward is not None and self.mid_forward:
            return _next_step(self._forward.rows.width, self._requests.wanted(self._forward.rows.rows))
        rows = self._queue.peek(self._tokens.now, 1 if self.merging == "off" else None)
        return None if rows is None else _next_step(rows.width, rows.rows)

    def park(self, names: Sequence[str]) -> int:
        return 0 if self.mid_forward else self._host_offload.park(names)

    def unpark(self, names: Sequence[str]) -> int:
        return self._host_offload.unpark(names)

    def drop_adapters(self, components: Sequence[str]) -> None:
        pass  # no request borrows any

    def resize_cache(self, n_bytes: int) -> int:
        return 0

    @torch.inference_mode()
    def step(
        self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield, in_tiles: bool = False
    ) -> Sequence[Update]:
        if self._forward is not None and not self.mid_forward:
            self._abandon(self._forward)
        self._updates += [Canceled(request_id) for request_id in self._canceled]
        self._canceled.clear()
        if max_rows != 0 and (self._forward is not None or self._queue):  # 0: the weights may be parked
            self._run(max_rows, should_yield)
        updates, self._updates = self._updates, []
        return updates

    def close(self) -> None:
        assert not self._requests, "a lane is closed when nothing runs on it or waits for it"
        assert self._yield_points is not None
        self._yield_points.remove()
        self._yield_points = self._forward = self._encoder = None
        self._host_offload = HostOffload((), "cpu")
        device.release_cache()

    def _refusal(self, request: EmbeddingRequest) -> tuple[FailureCode, str] | None:
        """The server checks requests too; a token without an embedding would end the process on a GPU."""
        assert self._encoder is not None
        if request.dimensions is not None and not 0 < request.dimensions <= self._dimensions:
            return "bad_request", f"The vectors of this model have {self._dimensions} dimensions."
        n_tokens = max((len(text.tokens) for text in request.texts), default=0)
        if n_tokens > self._max_tokens:
            return "context_overflow", f"A text has {n_tokens} tokens; the model reads at most {self._max_tokens}."
        known = range(self._encoder.n_embeddings)
        if not request.texts or any(
            not text.tokens or min(text.tokens) not in known or max(text.tokens) not in known for text in request.texts
        ):
            return "bad_request", "A text has no tokens, or tokens that the model does not know."
        return None

    def _run(self, max_rows: int | None, should_yield: Callable[[], bool]) -> None:
        """Run the next forward, or resume the one that has yielded, until it ends or yields."""
        forward = self._forward = self._forward or self._begin(max_rows)
        forward.greenlet.should_yield = should_yield
        modes, failure = torch_modes.current(), None
        try:
            with forward.meter:
                vectors: NDArray[np.float32] | None = forward.greenlet.switch()
        except BaseException as error:  # also a panic of Rust code
            if device.is_fatal(error):
                raise
            vectors, failure = None, (device.is_out_of_memory(error), "".join(traceback.format_exception(error)))
        finally:
            modes.restore()
        if not forward.greenlet.dead:
            return
        self._forward = None
        if failure is not None:  # outside the `except` block: the failed frames have let go of their tensors
            self._handle_failure(forward.rows, *failure)
            return
        assert vectors is not None
        assert self._yield_points is not None
        self._yield_points.forward_ended(forward.greenlet.longest_interval_s)
        self._note(forward)
        self._deliver(forward.rows, vectors)

    def _begin(self, max_rows: int | None) -> _Forward:
        rows = self._queue.take(self._tokens.now, 1 if self.merging == "off" else max_rows)
        return _Forward(rows, PreemptibleForward(functools.partial(self._encode, rows)), self._costs.meter(_key(rows)))

    def _abandon(self, forward: _Forward) -> None:
        """End a suspended forward whose requests have all been canceled."""
        self._forward, modes = None, torch_modes.current()
        forward.greenlet.throw()
        modes.restore()

    def _encode(self, rows: Rows) -> NDArray[np.float32]:
        """The body of a forward's greenlet. Returns (number of rows, D)."""
        encoder, this = self._encoder, greenlet.getcurrent()
        assert encoder is not None
        assert isinstance(this, PreemptibleForward)
        # A CPU computes any width at the same rate, so that it need not be one of few. A model that fails the proof may
        # read its padding, and gets none.
        is_exact = encoder.device.type == "cpu" or self.merging == "off"
        width = max(len(row.text.tokens) for row in rows.rows) if is_exact else rows.width
        inputs = encoder.inputs([row.text for row in rows.rows], width)
        reach("forward", "texts")
        vectors = encoder(*(device.upload(tensor, encoder.device) for tensor in inputs))
        copy = device.HostCopy(vectors.flatten(), device.pinned((vectors.numel(),), vectors.dtype, encoder.device))
        while not copy.is_done:  # a GPU computes while this thread goes on; other work may be launched meanwhile
            if this.should_yield():
                this.pause()
            else:
                time.sleep(device.POLL_S)
        this.end_interval()
        host: NDArray[np.float32] = copy.wait().view(vectors.shape).numpy()
        return host

    def _deliver(self, rows: Rows, vectors: NDArray[np.float32]) -> None:
        for row, vector in zip(rows.rows, vectors, strict=True):
            if row.request_id not in self._requests:
                continue  # canceled, or failed by an earlier row
            if not np.isfinite(vector).all():
                self._fail([row], "invalid_output", "The model produced values that are not numbers.", "")
            elif (embedded := self._requests.put(row, vector)) is not None:
                self._updates.append(embedded)

    def _note(self, forward: _Forward) -> None:
        next_step, meter = _next_step(forward.rows.width, forward.rows.rows), forward.meter
        cost = StepCost(
            next_step.shape, next_step.rows, meter.seconds, next_step.request_ids, "encoding", COMPONENT,
            units=next_step.units,
        )  # fmt: skip
        self._costs.add_step(cost, _key(forward.rows), meter.peak_bytes)
        self._tokens.step_succeeded()

    def _handle_failure(self, rows: Rows, out_of_memory: bool, detail: str) -> None:
        """1. Run half as many tokens at once. 2. Fail the request of a text that runs alone."""
        if not out_of_memory:
            self._fail(rows.rows, "model_error", "The model failed on these texts.", detail)
            return
        next_step = _next_step(rows.width, rows.rows)
        self._costs.add(
            OutOfMemory(COMPONENT, "forward", next_step.shape, rows.width, next_step.rows, next_step.request_ids)
        )
        device.release_cache()
        if len(rows.rows) > 1:
            self._tokens.ran_out_of_memory(rows.width * len(rows.rows))
            self._queue.put_back(self._requests.wanted(rows.rows))
        else:
            message = "The device ran out of memory for this text, even alone."
            self._fail(rows.rows, "out_of_memory", message, detail)

    def _fail(self, rows: Sequence[Row], code: FailureCode, message: str, detail: str) -> None:
        for request_id in dict.fromkeys(row.request_id for row in rows):
            if self._requests.forget(request_id):
                self._queue.remove(request_id)
                self._updates.append(Failed(request_id, code, message, detail))


def _next_step(width: int, rows: Sequence[Row]) -> NextStep:
    """One row of the step is one text, so a request may stand in `request_ids` several times."""
    ids = tuple(row.request_id for row in rows)
    return NextStep(COMPONENT, "forward", "encoding", shape_of_width(width), width, len(ids), ids)


def _key(rows: Rows) -> tuple[int, int]:
    """Forwards with the same key use about the same memory."""
    return rows.width, len(rows.rows).bit_length()
