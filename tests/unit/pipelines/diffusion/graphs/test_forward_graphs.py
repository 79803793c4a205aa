"""Which forwards are recorded, and that a replay is never anything but the forward.

A pool stands in for CUDA's graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.batching.preemption import PreemptibleForward, repeated_blocks
from pipelines.cuda_graphs import CaptureFailed
from pipelines.diffusion.graphs.call_key import key_of
from pipelines.diffusion.graphs.forward_graphs import CHECKS, Entry, ForwardGraphs
from tests.support.lanes.recording_pool import RecordingPool

OFTEN = 2
SETTLED = OFTEN + CHECKS + 1  # calls after which each further one is a replay and nothing else


class Denoiser(nn.Module):
    """Scales and shifts its first argument by a weight and a timestep. Counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]), requires_grad=False)
        self.layers = nn.ModuleList(nn.Sequential(nn.Identity()) for _ in range(2))
        self.runs = 0

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, scale: float = 1.0) -> tuple[torch.Tensor, str]:
        self.runs += 1
        for layer in self.layers:
            sample = layer(sample)
        return sample * self.weight + timestep[:, None] * scale, "constant"


class Case:
    """A module whose forward is wrapped as a lane does it."""

    def __init__(self, module: nn.Module | None = None, **options: Any) -> None:
        self.module: Any = module or Denoiser()
        self.pools: list[RecordingPool] = []
        self.errors: list[Exception] = []  # of recordings
        self.code = 0
        self.changed = False
        options = {"often": OFTEN, "most_seconds": 60.0, **options}
        self.graphs = ForwardGraphs(self._pool, "cpu", **options)

    def _pool(self) -> RecordingPool:
        self.pools.append(RecordingPool())
        self.pools[-1].error = self.errors.pop() if self.errors else None
        return self.pools[-1]

    @property
    def n_recordings(self) -> int:
        return sum(pool.n_recordings for pool in self.pools)

    @property
    def n_replays(self) -> int:
        return sum(pool.n_replays for pool in self.pools)

    @torch.no_grad()
    def __call__(self, *args: Any, job: str = "a", variant: object = None, **kwargs: Any) -> Any:
        forward = self.module.forward
        wrapped = self.graphs.wrap_forward(
            self.entry, variant=variant, job=job, code=lambda: self.code, changed=lambda: self.changed
        )
        assert wrapped.__name__ == forward.__name__
        return wrapped(*args, **kwargs)

    @property
    def entry(self) -> Entry:
        if not hasattr(self, "_entry"):
            function = self.module.forward
            self._entry = Entry(function, function, function)
        return self._entry

    @torch.no_grad()
    def called_often(self) -> None:
        """Until a call like `arguments` is served by replays alone."""
        for i in range(SETTLED):
            self(*arguments(i))


def arguments(i: int = 0, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(rows * 3.0).view(rows, 3) + i, torch.tensor(float(i)).expand(rows)


def expected(i: int, rows: int = 2) -> torch.Tensor:
    sample, timestep = arguments(i, rows)
    return sample * torch.tensor([1.0, 2.0, 3.0]) + timestep[:, None]


def test_a_call_that_comes_often_is_recorded_and_then_replayed_with_its_own_arguments() -> None:
    case = Case()
    outputs = [case(*arguments(i)) for i in range(SETTLED)]
    replays = case.n_replays
    outputs += [case(*arguments(i)) for i in range(SETTLED, SETTLED + 3)]

    assert case.n_recordings == 1
    assert case.n_replays == replays + 3
    assert all(torch.equal(output[0], expected(i)) for i, output in enumerate(outputs))
    assert outputs[-1][1] == "constant"
    assert any("CUDA graphs for 1 kind of calls" in note for note in case.graphs.notes)


def test_outputs_of_several_replays_do_not_share_memory() -> None:
    case = Case()
    case.called_often()
    first, second = case(*arguments(7))[0], case(*arguments(8))[0]
    first.fill_(0)

    assert torch.equal(second, expected(8))
    assert torch.equal(case(*arguments(9))[0], expected(9))


def test_arguments_that_the_caller_overwrites_later_do_not_reach_a_replay() -> None:
    case = Case()
    case.called_often()
    sample, timestep = arguments(3)
    case(sample, timestep)
    sample.fill_(torch.nan)

    assert torch.equal(case(*arguments(4))[0], expected(4))


@pytest.mark.parametrize(
    "other",
    [
        arguments(rows=3),
        (arguments()[0].double(), arguments()[1]),
        (arguments()[0].T.contiguous().T, arguments()[1]),
        (arguments()[0], arguments()[1].contiguous()),
        (*arguments(), 2.0),
        (*arguments(), 1),
    ],
    ids=["rows", "dtype", "strides", "repeated values", "a number", "the type of a number"],
)
def test_calls_that_differ_in_more_than_values_share_no_recording(other: tuple[Any, ...]) -> None:
    case = Case()
    case.called_often()
    replays = case.n_replays
    output = case(*other)[0]

    assert case.n_replays == replays
    assert torch.equal(output, Denoiser()(*other)[0])


def test_loras_and_other_variants_are_told_apart() -> None:
    case = Case()
    case.called_often()
    replays = case.n_replays
    case(*arguments(), variant="ink")

    assert case.n_replays == replays


def test_a_tensor_in_host_memory_cannot_be_an_argument_on_a_device() -> None:
    with pytest.raises(CaptureFailed, match="host memory"):
        key_of(arguments(), {}, "cuda")


def test_nor_can_an_object_of_which_nothing_is_known() -> None:
    case = Case()
    for _ in range(SETTLED):
        assert torch.equal(case(arguments(1)[0], arguments(1)[1], _Number())[0], expected(1))

    assert not case.n_recordings
    assert any("one of its arguments is a _Number" in note for note in case.graphs.notes)


class _Number:
    def __rmul__(self, other: torch.Tensor) -> torch.Tensor:
        return other


def test_a_long_forward_is_not_recorded() -> None:
    case = Case(most_seconds=0.0)
    case.called_often()

    assert not case.n_recordings


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (CaptureFailed("its forward makes the host wait for the device"), "makes the host wait"),
        (torch.OutOfMemoryError("no"), "too little memory"),
        (ValueError("odd"), "ValueError: odd"),
    ],
)
def test_what_cannot_be_recorded_runs_as_it_is_and_says_why(error: Exception, words: str) -> None:
    case = Case()
    case.errors.append(error)
    outputs = [case(*arguments(i))[0] for i in range(SETTLED)]

    assert all(torch.equal(output, expected(i)) for i, output in enumerate(outputs))
    assert any(words in note for note in case.graphs.notes)
    assert not case.graphs.n_bytes or case.pools[-1].n_recordings


class DrawsNoise(Denoiser):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, scale: float = 1.0) -> Any:
        return torch.randn_like(sample)


class WritesToItsArgument(Denoiser):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, scale: float = 1.0) -> Any:
        return sample.add_(1)


class KeepsATable(Denoiser):
    """Whose table nothing but this attribute holds."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, scale: float = 1.0) -> Any:
        self.table: Any = getattr(self, "table", None)
        if self.table is None:
            self.table = [torch.ones(3)]
        return (sample * self.table[0],)


@pytest.mark.parametrize(
    ("module", "words"), [(DrawsNoise(), "draws random numbers"), (WritesToItsArgument(), "writes to its arguments")]
)
def test_forwards_that_do_more_than_compute_are_not_recorded(module: nn.Module, words: str) -> None:
    case = Case(module)
    torch.manual_seed(1)
    outputs = [case(*arguments(1)) for _ in range(SETTLED)]
    torch.manual_seed(1)
    alone = [module.forward(*arguments(1)) for _ in range(SETTLED)]

    assert not case.n_recordings
    assert any(words in note for note in case.graphs.notes)
    assert all(torch.equal(*both) for both in zip(outputs, alone, strict=True))


def test_tables_that_a_forward_reads_stay_in_memory_as_long_as_its_recording() -> None:
    case = Case(KeepsATable())
    case.called_often()
    (table,) = case.module.table
    recording = next(met.graph for met in case.graphs._met.values())

    assert recording is not None
    assert any(held is table for held in recording._outside)


class FrozenPool(RecordingPool):
    """Whose replays give what the recording gave, as where a graph froze a number that the host had computed."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        super().record(work)
        return lambda: None


def test_a_replay_that_differs_from_the_forward_is_never_used() -> None:
    case = Case()
    case.graphs._make_pool = FrozenPool
    outputs = [case(*arguments(i))[0] for i in range(SETTLED + 2)]

    assert all(torch.equal(output, expected(i)) for i, output in enumerate(outputs))
    assert not case.graphs.n_graphs
    assert any("a replay differed" in note for note in case.graphs.notes)


def test_a_recording_is_dropped_when_weights_have_moved_between_two_jobs() -> None:
    case = Case()
    case.called_often()
    case.module.weight.data = case.module.weight.data * 2
    output = case(*arguments(1), job="b")[0]

    assert torch.equal(output, case.module(*arguments(1))[0])
    assert not case.graphs.n_bytes


def test_dropping_frees_all_and_waits_longer_when_memory_was_short() -> None:
    case = Case()
    case.called_often()
    resized: list[int] = []
    case.graphs.on_resize = lambda: resized.append(case.graphs.n_bytes)

    assert case.graphs.drop_for_memory() > 1 << 20
    assert resized == [0]
    for _ in range(OFTEN + 1):
        case(*arguments())
    assert case.n_recordings == 1
    for _ in range(OFTEN + 1):
        case(*arguments())
    assert case.n_recordings == 2


def test_a_forward_that_runs_out_of_memory_frees_the_recordings_before_it_is_tried_again() -> None:
    case = Case()
    case.called_often()

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("no")

    case._entry = Entry(case.entry.function, fails, fails)
    with pytest.raises(torch.OutOfMemoryError):
        case(*arguments(rows=3))

    assert not case.graphs.n_bytes


def test_forwards_are_recorded_again_after_blocks_were_compiled() -> None:
    case = Case()
    case.called_often()
    case.code = 1
    assert torch.equal(case(*arguments(5))[0], expected(5))
    assert not case.graphs.n_bytes
    case.called_often()

    assert case.n_recordings == 2


def test_modules_that_a_job_has_changed_run_as_they_are() -> None:
    case = Case()
    case.called_often()
    case.changed, replays = True, case.n_replays
    case(*arguments())

    assert case.n_replays == replays


def test_hooks_inside_a_module_keep_it_from_being_recorded() -> None:
    case = Case()
    layer = next(iter(repeated_blocks(case.module)))[0]
    layer.register_forward_hook(lambda *_: None)
    case.called_often()

    assert not case.n_recordings
    assert any("hooks are on its layers" in note for note in case.graphs.notes)


def test_at_most_so_many_recordings_are_kept_and_the_one_unused_for_longest_leaves() -> None:
    case = Case(most_graphs=2)
    for rows in (1, 2, 3):
        for _ in range(SETTLED):
            case(*arguments(rows=rows))
    replays = case.n_replays
    case(*arguments(rows=2))
    case(*arguments(rows=3))
    case(*arguments(rows=1))

    assert case.graphs.n_graphs == 2
    assert case.n_replays == replays + 2


def test_a_recording_waits_while_other_work_waits_and_is_not_interrupted_itself() -> None:
    case = Case()
    asked: list[str] = []

    def asks(*_: Any) -> None:
        asked.append("layer")

    for _ in range(OFTEN):
        case(*arguments())
    waiting = PreemptibleForward(lambda: case(*arguments()))
    waiting.should_yield = lambda: True
    waiting.switch()
    assert not case.n_recordings

    class Pauses(RecordingPool):
        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            forward.at_block()  # as a yield point does
            return super().record(work)

    case.graphs._make_pool = Pauses
    answers = iter([False])  # to the recording's own question; nothing else may ask
    forward = PreemptibleForward(lambda: case(*arguments(4)))
    forward.should_yield = lambda: next(answers)
    output = forward.switch()

    assert forward.dead
    assert torch.equal(output[0], expected(4))
