"""Decode steps over static buffers: all rows read one token each, and the sampler chooses outside the forward.

transformers prepares a step by writing a dozen tensors anew, one small copy to the device after the other. Here a step
needs one copy, and its forward always reads and writes the same tensors, so that it can be a CUDA graph. transformers'
objects stay the owners of sequences and pages; this class keeps a copy of where each row's pages are. Device thread
only; everything is launched on the current stream, in order.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines import device
from pipelines.batching.merging import difference
from pipelines.chat.decode.attention import paged_decode
from pipelines.chat.decode.compiled import Forward, forward_of, from_the_cache_only
from pipelines.chat.decode.joined import JoinedLinears
from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat.decode.pages import Layer, Pages, reading
from pipelines.chat.decode.step_compiler import LayerTask, StepCompiler, layer_tasks
from pipelines.chat.decode.tables import page_tables
from pipelines.chat.long_rope import LongRope
from pipelines.chat.sampling.batch_sampler import BatchSampler
from pipelines.compile_process import reason_of
from pipelines.cuda_graphs import CaptureFailed, GraphPool

# Largest difference of compiled logits, relative to the largest: they round in another order.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 3e-2}
NOT_CAPTURED = "Its decode steps are not CUDA graphs, which makes one chat slower: {}"


class Differs(Exception):
    """Compiled layers do not compute what the layers compute as written."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A forward whose logits are in the buffer, or will be when the device is done."""

    states: tuple[Any, ...]  # transformers' `RequestState` of each row
    lengths: tuple[int, ...]  # tokens of each that are in the cache after the forward


class DecodeSteps:
    """A model's decode forward for up to `max_rows` sequences."""

    @torch.inference_mode()
    def __init__(
        self,
        model: Any,
        cache: Any,
        max_rows: int,
        max_length: int,
        options: DecodeOptions,
        compiler: StepCompiler | None = None,
        rope: LongRope | None = None,
    ) -> None:
        """cache: transformers' `PagedAttentionCache`. max_length: tokens of the longest sequence."""
        (self._page_tokens,) = {int(each.tokens_per_page) for each in cache.cache_allocators.values()}
        self._max_rows = _power_of_two(max_rows)
        self._max_columns = -(-max_length // self._page_tokens)
        self._device: torch.device = model.device
        self._config = model.config.get_text_config()
        self._options = options
        self._model, self._compiler = model, compiler
        self._plain: Forward = forward_of(model)
        self._rope = rope
        self._weights = [each for each in (*model.parameters(), *model.buffers()) if type(each.data) is Tensor]
        self._addresses: list[int] = []
        self._tables = page_tables(cache, max_length)
        # Columns of the tables but the last, which a step copies whole; of the last it copies those in use.
        self._whole_columns = sum(table.n_columns for table in self._tables[:-1])
        self._make_buffers(int(self._config.vocab_size))
        self._reads_lengths = device.has_triton(self._device)  # the kernel needs no bound on the rows' pages
        self._rows: tuple[Any, ...] = ()  # whose pages are in the table
        self._stale: set[int] = set()  # rows whose pages have changed
        self._graphs: dict[int, Callable[[], None]] = {}  # by the number of rows
        self._pools: list[GraphPool] = []  # of the graphs, the newest last
        self._in_newest: set[int] = set()  # rows whose graphs are in the newest pool
        self.pauses = False  # nothing is to be launched ahead, because `improve` waits for a moment without a forward
        self.pending: Launched | None = None
        self.notes: list[str] = []
        self._choice_bytes = 0  # that the sampler holds for its graphs
        self.capture_s = 0.0
        self._joined: JoinedLinears | None = None
        if options.joins:
            self._joined = JoinedLinears(model, functools.partial(self._run, 1, 1, self._plain))
            self._joined.join()

    def _make_buffers(self, vocabulary: int) -> None:
        n_rows = self._max_rows
        n_columns = self._whole_columns + self._tables[-1].n_columns
        # One piece of memory for all that a step copies: tokens, positions, and the columns of the tables.
        self._inputs = torch.zeros(n_rows * (2 + n_columns), dtype=torch.int32, device=self._device)
        self._host_tokens, self._positions = self._inputs[:n_rows], self._inputs[n_rows : 2 * n_rows]
        self._tokens = torch.zeros(n_rows, dtype=torch.long, device=self._device)
        self._logits = torch.zeros(n_rows, vocabulary, device=self._device)
        # The host writes the next step while the device may still copy the last one from the other buffer.
        self._staging = [device.pinned((len(self._inputs),), torch.int32, self._device) for _ in range(2)]
        self._staged = [each.numpy() for each in self._staging]
        self._turn = 0
        self._next = self._staged[0].copy()  # what the inputs are to be
        self._next_positions = self._next[n_rows : 2 * n_rows]
        layers: dict[int, Layer] = {}
        begin = 2 * n_rows
        for table in self._tables:
            end = begin + n_rows * table.n_columns
            table.put_on(self._next[begin:end].reshape(-1, n_rows))
            layers.update(table.layers(self._inputs[begin:end].view(-1, n_rows)))
            begin = end
        self._pages = Pages([layer for _, layer in sorted(layers.items(), key=lambda each: each[0])], self._positions)
        self._chosen = device.pinned((n_rows,), torch.long, self._device)
        self._inputs.copy_(torch.from_numpy(self._next))

    @property
    def n_bytes(self) -> int:
        """Of the device's memory: buffers and graphs, without the cache."""
        buffers = sum(int(each.nbytes) for each in (self._inputs, self._tokens, self._logits))
        return buffers + self._choice_bytes + sum(pool.n_bytes for pool in self._pools)

    @torch.inference_mode()
    def capture(self, stream: Any) -> None:
        """Record the forward as one graph for each number of rows; what cannot be recorded runs as it is.

        Again after the weights have moved: a graph holds their addresses.
        """
        if not self._reads_lengths:
            self.notes.append(NOT_CAPTURED.format("Triton is not installed."))
            return
        began = time.perf_counter()
        if self._joined is not None:
            self._joined.join()
        self._addresses = self._weight_addresses()
        self._graphs.clear()
        self._pools = [GraphPool(stream)]
        self._read_nothing()
        for n_rows in (self._max_rows, *self._widths[:-1]):  # the widest can stand in for all
            if time.perf_counter() - began > self._options.capture_s:
                break
            try:
                self._record_compiled_or_plain(n_rows)
            except CaptureFailed as failure:
                self.notes.append(NOT_CAPTURED.format(failure))
                break
        self.capture_s = time.perf_counter() - began

    def _record_compiled_or_plain(self, n_rows: int) -> None:
        forward = self._forward_of(n_rows)
        if forward is not self._plain and self._compiler is not None:
            try:
                self._record(n_rows, forward)
                return
            except Exception as error:
                if device.is_fatal(error) or device.is_out_of_memory(error):
                    raise
                self._compiler.failed(n_rows, reason_of(error))
        self._record(n_rows, self._plain)

    def _record(self, n_rows: int, forward: Forward) -> None:
        work = functools.partial(self._run, n_rows, self._max_columns, forward)
        self._graphs[n_rows] = self._pools[-1].record(work)

    @property
    def _widths(self) -> list[int]:
        return [1 << i for i in range(self._max_rows.bit_length())]

    def _forward_of(self, n_rows: int) -> Forward:
        return self._plain if self._compiler is None else self._compiler.forwards.get(n_rows, self._plain)

    @torch.inference_mode()
    def begin_to_compile(self) -> None:
        """Have the layers compiled beside this thread, for every number of rows that has a graph, or without graphs."""
        if self._compiler is not None and (self._graphs or not self._options.graphs):
            self._compiler.begin(self._describe, sorted(self._graphs) or self._widths)

    def _describe(self, n_rows: int) -> Sequence[LayerTask]:
        return layer_tasks(
            self._model, n_rows, functools.partial(self._run, n_rows, 1, self._plain), self._pages.layers
        )

    @torch.inference_mode()
    def improve(self) -> None:
        """Use compiled layers for a number of rows for which they have become ready. The host waits for it.

        Not while a forward is pending, whose logits are in the buffer: the next step then launches none ahead.
        """
        if self._compiler is None:
            return
        self._compiler.look()
        self.pauses = bool(self._compiler.ready)
        if not self.pauses or self.pending is not None:
            return
        taken = self._compiler.take()
        assert taken is not None
        began = time.perf_counter()
        rows, forward = taken
        try:
            with from_the_cache_only():
                self._use(rows, forward)
        except Exception as error:  # of the compiler, of its code, or of the recording
            if device.is_fatal(error):
                raise
            self._compiler.failed(rows, reason_of(error))
        else:
            self._compiler.used(rows, forward, time.perf_counter() - began)
        self.pauses = bool(self._compiler.ready)

    def _use(self, n_rows: int, forward: Forward) -> None:
        """Raises `Differs`, and what the compiler and the recording raise. The graph stays as it was then."""
        self._read_nothing()
        torch.arange(5, 5 + 7919 * self._max_rows, 7919, out=self._tokens).remainder_(self._logits.shape[1])
        columns = self._max_columns
        self._run(n_rows, columns, self._plain)
        expected = self._logits[:n_rows].clone()
        self._run(n_rows, columns, forward)
        if (much := difference(expected, self._logits[:n_rows])) > TOLERANCE.get(self._model.dtype, 0.0):
            raise Differs(f"they would compute something else: by {much:.3g} of the largest logit")
        if not self._graphs:
            return
        if len(self._pools) == 1:
            self._pools.append(GraphPool(self._pools[0].stream))
            self._in_newest.clear()
        self._record(n_rows, forward)
        self._in_newest.add(n_rows)
        if self._in_newest.issuperset(self._graphs):
            del self._pools[0]

    def _read_nothing(self) -> None:
        """Let all rows read and write the page that holds nothing, and forget whose pages they had.

        A forward that is only recorded would else write into pages of running chats, or of texts that are kept.
        """
        for table in self._tables:
            table.clear_rows(0)
        self._next_positions[:] = 0
        self._rows = ()
        self._copy(1)
        device.finish(str(self._device))

    def record_choice(self, sampler: BatchSampler, stream: Any) -> None:
        """Let the sampler record, as graphs, how it chooses from the logits that forwards write."""
        began = time.perf_counter()
        self.notes += sampler.record(self._logits, stream)
        self._choice_bytes = sampler.n_bytes
        self.capture_s += time.perf_counter() - began

    def capture_moved(self, stream: Any) -> None:
        """Record the graphs again if weights have moved since; without graphs, put joined weights together again."""
        if self._weight_addresses() == self._addresses:
            return
        if self._graphs:
            self.capture(stream)
        elif self._joined is not None:
            self._joined.join()
            self._addresses = self._weight_addresses()

    def _weight_addresses(self) -> list[int]:
        return [each.data_ptr() for each in self._weights]

    def holds(self, states: Sequence[Any]) -> bool:
        """Whether these sequences fit into the buffers with one more token each."""
        longest = max(state.position_offset for state in states)
        return len(states) <= self._max_rows and longest < self._max_columns * self._page_tokens

    @torch.inference_mode()
    def launch(self, states: Sequence[Any], *, follows: bool) -> None:
        """Launch the forward that reads the last token of each sequence; `pending` holds it then.

        Each has a page for that token. follows: this is the next that happens after `choose`, for the same sequences in
        the same order. Their tokens are on the device, and the host need not know them yet.
        """
        states = tuple(states)
        n_rows, width = len(states), self._width(len(states))
        same = follows and _same(states, self._rows)
        if not same:
            for table in self._tables:
                table.clear_rows(n_rows)
            self._next_positions[n_rows:] = 0
            self._rows = states
        changed = not same
        for row, state in enumerate(states):
            position = state.position_offset
            self._next_positions[row] = position
            state.position_offset = position + 1
            if not same or row in self._stale or position % self._page_tokens == 0:
                for table in self._tables:
                    table.fill_row(row, state.request_id)
                changed = True
        self._stale.clear()
        n_columns = max(state.position_offset - 1 for state in states) // self._page_tokens + 1
        if not follows:
            self._next[:n_rows] = [state.tokens_to_process[0] for state in states]
        self._copy(n_columns if changed else 0)
        if not follows:
            self._tokens[:n_rows].copy_(self._host_tokens[:n_rows])
        graph = self._graphs.get(width)
        if graph is not None:
            graph()
        else:
            self._run(width, n_columns, self._forward_of(width))
        self.pending = Launched(states, tuple(state.position_offset for state in states))

    @torch.inference_mode()
    def choose(self, sampler: Callable[[Sequence[str], Tensor], Tensor], rows: Sequence[int]) -> device.HostCopy:
        """Let the sampler choose from the pending forward's logits for these rows, and begin to copy its choice.

        The choice is also what a forward of these sequences that follows reads.
        """
        assert self.pending is not None
        states = tuple(self.pending.states[row] for row in rows)
        logits = self._logits[: len(rows)]
        if len(rows) < len(self.pending.states):
            logits = self._logits.index_select(0, device.upload(torch.tensor(rows), self._device))
        chosen = sampler([state.request_id for state in states], logits)
        torch.clamp(chosen, min=0, out=self._tokens[: len(rows)])  # -1: no token; its sequence is about to end
        self.pending = None
        return device.HostCopy(chosen, self._chosen)

    def pages_changed(self, state: Any) -> None:
        """transformers has replaced a page of this sequence with another that holds the same."""
        self._stale.update(row for row, each in enumerate(self._rows) if each is state)

    def _width(self, n_rows: int) -> int:
        """Rows that a forward for so many sequences has: a power of two, and one that was recorded, if any was."""
        width = _power_of_two(n_rows)
        return min((each for each in self._graphs if each >= width), default=width)

    def _copy(self, n_columns: int) -> None:
        """Copy tokens and positions to the device, and the tables unless `n_columns`, those in use, is 0."""
        self._turn = 1 - self._turn
        in_tables = self._whole_columns + min(n_columns, self._tables[-1].n_columns) if n_columns else 0
        n = self._max_rows * (2 + in_tables)
        self._staged[self._turn][:n] = self._next[:n]
        self._inputs[:n].copy_(self._staging[self._turn][:n], non_blocking=True)

    def _run(self, n_rows: int, n_columns: int, forward: Forward) -> None:
        columns = self._max_columns if self._reads_lengths else min(_power_of_two(n_columns), self._max_columns)
        joined = nullcontext() if self._joined is None else self._joined.used()
        rope = nullcontext() if self._rope is None else self._rope.by_position()
        with joined, rope, paged_decode(self._config), reading(self._pages, n_rows, columns):
            logits = forward(self._tokens[None, :n_rows], self._positions[None, :n_rows])
        self._logits[:n_rows].copy_(logits[0])


def _same(states: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(states) == len(others) and all(a is b for a, b in zip(states, others, strict=True))


def _power_of_two(n: int) -> int:
    """The next power of two, at least n."""
    return 1 << (n - 1).bit_length()
