"""Chooses the tokens of a batch with kernels of our own, by one launch where they are recorded. Needs Triton."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pipelines.chat.sampling import triton_kernels
from pipelines.chat.sampling.noise import row_starts
from pipelines.chat.sampling.torch_choice import TorchChoice
from pipelines.chat.sampling.triton_kernels import (
    CUT,
    FREE,
    GREEDY,
    JUDGED,
    KIND,
    TEMPERATURE,
    TOP_K,
    Buffers,
)
from pipelines.chat_interface import ChatRequest, Prompt
from pipelines.cuda_graphs import GraphPool

MIN_ROWS = 8  # that the buffers have room for
RECORD_S = 5.0  # after so many seconds no further graph is begun; it takes some milliseconds
Reach: TypeAlias = tuple[bool, bool]  # which kernels are launched: whether rows are cut at all; by top-k
REACHES: tuple[Reach, ...] = ((False, False), (True, False), (True, True))


class KernelChoice:
    """A `Choice` (see `batch_sampler`) for the rows of the last `begin`.

    Their settings are in buffers that stay, and what moves on from step to step does so on the device. Thus a step
    needs nothing of the host but the launches, and these are one where `record` was called with the logits' tensor.
    """

    n_steps = 1 << 62  # as many as wished

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = Buffers.empty(MIN_ROWS, device)
        self._reach = REACHES[0]
        self._graphs: dict[tuple[int, Reach], Callable[[], None]] = {}  # by number of rows
        self._recorded: tuple[int, tuple[int, ...]] | None = None  # address and strides of the logits that graphs read

    @property
    def n_bytes(self) -> int:
        """Of the device's memory. Graphs of kernels alone take none."""
        return self._buffers.n_bytes

    def begin(
        self, requests: Sequence[ChatRequest], positions: Sequence[int], vocabulary: int, *, is_judged: bool = False
    ) -> None:
        """Copy the settings of the rows to the device, without waiting for it.

        positions: as of `row_starts`. is_judged: `judge` will be called before each choice.
        """
        n_rows = len(requests)
        self._reserve(n_rows)
        settings = torch.zeros(self._buffers.settings.shape, dtype=torch.double)  # NO_ROW behind these rows
        settings[:n_rows] = torch.tensor([_settings(request, vocabulary) for request in requests], dtype=torch.double)
        settings[:, JUDGED.value] = is_judged
        settings[:, TEMPERATURE.value] = settings[:, TEMPERATURE.value].float().double()  # as torch's operators have it
        starts = row_starts([request.seed for request in requests], positions)
        self._fill(self._buffers.settings, settings)
        self._fill(self._buffers.starts[:n_rows], torch.tensor(starts, dtype=torch.long))
        cuts, top_k = settings[:, KIND.value] == CUT.value, settings[:, TOP_K.value] > 0
        self._reach = bool(cuts.any()), bool(top_k.any())

    def judge(self, logits: Tensor) -> None:
        torch.amax(logits, -1, out=self._buffers.highest[: len(logits)])

    def __call__(self, logits: Tensor) -> Tensor:
        graph = self._graph_for(logits)
        if graph is not None:
            graph()
        else:
            self._launch(logits, self._reach)
        return self._buffers.tokens[: len(logits)]

    def record(self, logits: Tensor, stream: torch.cuda.Stream) -> None:
        """Record the choice from the first rows of these logits, (N, V), for each power of two of rows.

        Waits for the device; the rows have to `begin` again after it. Raises `CaptureFailed`.
        """
        began = time.perf_counter()
        self._reserve(len(logits))
        self._graphs.clear()
        self._recorded = logits.data_ptr(), logits.stride()
        pool = GraphPool(stream)
        widths = [1 << i for i in range(len(logits).bit_length())]
        for reach in REACHES:
            for width in reversed(widths):  # the widest can stand in for all
                if time.perf_counter() - began < RECORD_S:
                    work = functools.partial(self._launch, logits[:width], reach)
                    self._graphs[width, reach] = pool.record(work)

    def _graph_for(self, logits: Tensor) -> Callable[[], None] | None:
        if (logits.data_ptr(), logits.stride()) != self._recorded:
            return None
        widths = [rows for rows, reach in self._graphs if rows >= len(logits) and reach == self._reach]
        return self._graphs[min(widths), self._reach] if widths else None

    def _launch(self, logits: Tensor, reach: Reach) -> None:
        triton_kernels.choose(logits, self._buffers, cuts=reach[0], top_k=reach[1])

    def _reserve(self, n_rows: int) -> None:
        """Make room for so many rows. What was recorded for smaller buffers is forgotten."""
        if n_rows > len(self._buffers.settings):
            self._graphs.clear()
            self._buffers = Buffers.empty(1 << (n_rows - 1).bit_length(), self._device)

    def _fill(self, buffer: Tensor, values: Tensor) -> None:
        buffer.copy_(values.pin_memory() if self._device.type == "cuda" else values, non_blocking=True)


def _settings(request: ChatRequest, vocabulary: int) -> list[float]:
    """The row of a chat in the buffers' settings."""
    is_greedy = request.temperature <= 0
    top_k = request.top_k if 0 < request.top_k < vocabulary and not is_greedy else 0
    kind = GREEDY if is_greedy else CUT if top_k or request.top_p < 1 or request.min_p else FREE
    log_min_p = math.log(request.min_p) if request.min_p else -math.inf
    return [kind.value, request.temperature, top_k, request.top_p, log_min_p, 0.0]


def check(device: torch.device) -> None:
    """Compile the kernels, and compare their choices with those of torch's operators. Waits for the device.

    Raises ValueError where they differ, and whatever Triton raises.
    """
    n_rows, vocabulary = len(CHECKED), 5000
    prompt = Prompt(tokens=(1,))
    requests = [ChatRequest(id="", prompt=prompt, seed=row, **each) for row, each in enumerate(CHECKED)]
    logits = torch.randn(n_rows, vocabulary, generator=torch.Generator().manual_seed(0)).mul_(3)
    logits[-1, 3] = torch.nan
    logits = logits.to(device)
    ours, theirs = KernelChoice(device), TorchChoice(requests, [*range(n_rows)], logits)
    ours.begin(requests, [*range(n_rows)], vocabulary)
    for _ in range(2):
        if ours(logits).tolist() != theirs(logits).tolist():
            raise ValueError("the kernels choose other tokens than torch's operators")


CHECKED: tuple[dict[str, Any], ...] = (  # settings that need every part of the kernels
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 2.0, "top_p": 0.97, "min_p": 1e-4},
    {"temperature": 9.0, "top_p": 1e-3},
    {"temperature": 1.5, "top_k": 40},
    {"temperature": 1.5, "top_k": 3000, "top_p": 0.8},
    {"temperature": 9.0, "top_k": 10, "top_p": 0.2, "min_p": 0.3},
    {"temperature": 0.7, "top_p": 0.9},
)
