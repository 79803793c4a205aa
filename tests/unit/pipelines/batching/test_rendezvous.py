"""Tasks that know nothing of each other share forwards. Tests step the rendezvous, with modules of one formula."""

from __future__ import annotations

import functools
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipelines.batching import task as task_module
from pipelines.batching.rendezvous import Rendezvous
from pipelines.batching.rng_state import RngState
from pipelines.batching.task import Task
from pipelines.batching.wrapped_modules import WrappedModules
from tests.support.lanes.rendezvous import finish, rendezvous_at


class Doubler:
    """A module that keeps its rows apart, and records the number of rows of each forward."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
        self.batch_sizes.append(len(x))
        return x * 2 + t.reshape(-1, 1)


class MixesRows(Doubler):
    """Like a batch norm: a row's output depends on the other rows."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
        return super().forward(x, t) - x.mean()


class FirstTimestep(Doubler):
    """Uses the timestep of the first row for all rows."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
        return super().forward(x, t.reshape(-1)[:1])


class LimitedMemory(Doubler):
    """Has memory for `max_rows` rows; with `tiling`, for any number."""

    def __init__(self, max_rows: int, refusal: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.max_rows = max_rows
        self.refusal = refusal
        self.tiling = False
        self.refused_sizes: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
        if len(x) > self.max_rows:
            self.refused_sizes.append(len(x))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x, t)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        if not self.tiling:
            raise self.refusal("cannot decode in one piece")
        return x + 1

    def enable_tiling(self) -> None:
        self.tiling = True

    def disable_tiling(self) -> None:
        self.tiling = False


def loop(module: Any, value: float, steps: int, *, t0: int = 10, rows: int = 1) -> Callable[[], torch.Tensor]:
    """Stock code: a loop of calls, each of which takes the last one's output."""

    def body() -> torch.Tensor:
        x = torch.full((rows, 2), float(value))
        for step in range(steps):
            x = module.forward(x, torch.tensor(t0 - step), return_dict=False) / 4
        return x

    return body


def alone(module_type: type[Doubler], value: float, steps: int, **options: Any) -> torch.Tensor:
    return loop(module_type(), value, steps, **options)()


def test_tasks_of_different_length_share_forwards_and_get_the_results_of_running_alone() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)
    lengths = {"a": 3, "b": 5, "c": 2, "d": 5}
    tasks = [Task(name, loop(module, i, lengths[name])) for i, name in enumerate(lengths)]

    outcomes = finish(rendezvous, tasks)

    for i, name in enumerate(lengths):
        assert torch.equal(outcomes[name].result, alone(Doubler, i, lengths[name]))
    assert module.batch_sizes[:6] == [1, 1, 1, 1, 1, 4], (
        "the proof: four calls and a perturbed one alone, then all together"
    )
    assert module.batch_sizes[7:] == [4, 4, 2, 2], (
        "then one forward for all running tasks; three calls run at width four, two at width two"
    )
    assert rendezvous.merging == "on"
    assert [task.batch_peak for task in tasks] == [4, 4, 4, 4]


def test_each_task_draws_torchs_own_random_numbers_as_if_it_ran_alone() -> None:
    module = Doubler()

    def body() -> torch.Tensor:
        """Stock code that samples a token after each call of its model."""
        drawn = []
        for _ in range(3):
            module.forward(torch.zeros(1, 2), torch.tensor(1))
            drawn.append(torch.rand(2))
        return torch.stack(drawn)

    torch.manual_seed(7)
    by_itself = body()
    around = torch.get_rng_state()
    outcomes = finish(
        rendezvous_at(module),
        [Task(name, body, rng_state=RngState(seed)) for name, seed in (("a", 7), ("b", 8), ("c", 7))],
    )

    assert torch.equal(outcomes["a"].result, by_itself)
    assert torch.equal(outcomes["c"].result, by_itself)
    assert not torch.equal(outcomes["b"].result, by_itself)
    assert torch.equal(torch.get_rng_state(), around), "the generator outside of tasks is unchanged"


def test_merging_reports_on_the_most_frequent_calls_though_others_merge() -> None:
    modules, encoder, denoiser = WrappedModules(), Doubler(), Doubler()
    modules.wrap("encoder", encoder, "forward")
    modules.wrap("denoiser", denoiser, "forward")
    rendezvous = Rendezvous(modules)

    def body(size: int) -> None:
        encoder.forward(torch.zeros(1, 2), torch.tensor(1))
        for step in range(4):
            denoiser.forward(torch.zeros(1, size), torch.tensor(step))

    finish(rendezvous, [Task(str(size), functools.partial(body, size)) for size in (2, 3, 4)])

    assert list(rendezvous.verdicts.values()) == [True], "the encoder's"
    assert rendezvous.merging == "unproven"


def test_a_single_task_runs_without_proof_and_unchanged() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)
    outcome = finish(rendezvous, [task := Task("a", loop(module, 1, 3))])["a"]

    assert torch.equal(outcome.result, alone(Doubler, 1, 3))
    assert module.batch_sizes == [1, 1, 1]
    assert (task.batch_peak, rendezvous.merging) == (1, "unproven")


def test_a_task_that_starts_later_joins_the_batch() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)
    first, second, late = tasks = [Task(name, loop(module, i, 6)) for i, name in enumerate("abc")]
    rendezvous.start(first)
    rendezvous.start(second)
    for _ in range(3):
        rendezvous.step()
    outcomes = finish(rendezvous, tasks)

    for i, name in enumerate("abc"):
        assert torch.equal(outcomes[name].result, alone(Doubler, i, 6))
    assert (first.batch_peak, second.batch_peak, late.batch_peak) == (4, 4, 4), "three calls run at width four"


@pytest.mark.parametrize("module_type", [MixesRows, FirstTimestep])
@pytest.mark.parametrize("values", [(1.0, 2.0), (1.0, 1.0)], ids=["different jobs", "the same job twice"])
def test_the_proof_finds_a_module_that_mixes_its_rows_and_it_never_merges(
    module_type: type[Doubler], values: tuple[float, float]
) -> None:
    module = module_type()
    rendezvous = rendezvous_at(module)
    tasks = [Task(str(i), loop(module, value, 4)) for i, value in enumerate(values)]

    outcomes = finish(rendezvous, tasks)

    for i, value in enumerate(values):
        assert torch.equal(outcomes[str(i)].result, alone(module_type, value, 4))
    assert rendezvous.merging == "off"
    assert [task.batch_peak for task in tasks] == [1, 1]
    later = finish(rendezvous, [Task("x", loop(module, 5.0, 4)), Task("y", loop(module, 6.0, 2, t0=3))])
    assert torch.equal(later["x"].result, alone(module_type, 5.0, 4))
    assert torch.equal(later["y"].result, alone(module_type, 6.0, 2, t0=3))


def test_a_task_that_must_not_merge_runs_between_the_others() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)
    free = [Task(name, loop(module, 1, 3)) for name in "ab"]
    pinned = Task("pinned", loop(module, 7, 3), mergeable=False)

    outcomes = finish(rendezvous, [free[0], pinned, free[1]])

    assert torch.equal(outcomes["pinned"].result, alone(Doubler, 7, 3))
    assert (pinned.batch_peak, free[0].batch_peak) == (1, 2)


def test_merging_switched_off_lets_tasks_take_turns() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module, merging="off")
    finish(rendezvous, [Task(name, loop(module, 1, 3)) for name in "ab"])

    assert module.batch_sizes == [1] * 6
    assert rendezvous.merging == "off"


def test_a_call_that_raises_fails_its_own_task_alone() -> None:
    class Picky(Doubler):
        def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
            if bool((x > 90).any()):
                raise RuntimeError("too large")
            return super().forward(x, t)

    module = Picky()
    rendezvous = rendezvous_at(module)
    finish(rendezvous, [Task(name, loop(module, 1, 2)) for name in "xy"])  # proved

    outcomes = finish(rendezvous, [Task(str(value), loop(module, value, 3)) for value in (1.0, 99.0, 2.0)])

    assert isinstance(outcomes["99.0"].error, RuntimeError)
    for value in (1.0, 2.0):
        assert torch.equal(outcomes[str(value)].result, alone(Doubler, value, 3))
    assert rendezvous.merging == "on"


def test_a_task_that_raises_what_is_no_exception_fails_alone_as_well() -> None:
    class Panic(BaseException):
        """As compiled libraries raise, such as tokenizers."""

    def panic() -> None:
        raise Panic("index out of range")

    outcomes = finish(rendezvous_at(Doubler()), [Task("panic", panic), Task("fine", lambda: 1)])

    assert isinstance(outcomes["panic"].error, Panic)
    assert outcomes["fine"].result == 1


def test_a_merged_forward_that_runs_out_of_memory_is_split_and_the_width_remembered() -> None:
    module = LimitedMemory(max_rows=3)
    rendezvous = rendezvous_at(module)
    outcomes = finish(rendezvous, [Task(str(i), loop(module, i, 5)) for i in range(8)])

    for i in range(8):
        assert torch.equal(outcomes[str(i)].result, alone(Doubler, i, 5))
    assert module.refused_sizes == [8, 4], "each width is tried once"
    assert rendezvous.merging == "on", "running out of memory proves nothing about the rows"


@pytest.mark.slow
def test_memory_that_runs_out_after_the_proof_splits_the_forward_too() -> None:
    module = LimitedMemory(max_rows=8)
    rendezvous = rendezvous_at(module)
    finish(rendezvous, [Task(str(i), loop(module, i, 2)) for i in range(4)])
    module.max_rows = 1
    outcomes = finish(rendezvous, tasks := [Task(str(i), loop(module, i, 3)) for i in range(4)])

    for i in range(4):
        assert torch.equal(outcomes[str(i)].result, alone(Doubler, i, 3))
    assert module.refused_sizes == [4, 2, 2]
    assert [task.batch_peak for task in tasks] == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("refusal", [torch.OutOfMemoryError, NotImplementedError])
def test_a_single_decode_that_does_not_fit_is_done_in_tiles(refusal: type[Exception]) -> None:
    module = LimitedMemory(1, refusal)
    rendezvous = rendezvous_at(module, "decode")
    outcomes = finish(
        rendezvous, [Task(str(i), lambda i=i: module.decode(torch.full((1, 2), float(i)))) for i in range(2)]
    )

    assert [float(outcomes[str(i)].result[0, 0]) for i in range(2)] == [1.0, 2.0]
    assert not module.tiling, "tiling is switched off again"


def test_a_single_call_that_never_fits_fails_its_own_task() -> None:
    module = LimitedMemory(max_rows=1)
    rendezvous = rendezvous_at(module)
    big, small = Task("big", loop(module, 1, 2, rows=2)), Task("small", loop(module, 1, 2))

    outcomes = finish(rendezvous, [big, small])

    assert isinstance(outcomes["big"].error, torch.OutOfMemoryError)
    assert torch.equal(outcomes["small"].result, alone(Doubler, 1, 2))


def test_an_entry_point_that_draws_from_a_generator_is_not_merged() -> None:
    class Sampler:
        def forward(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
            return x + torch.randn(x.shape, generator=generator)

    def body(seed: int) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            generator = torch.Generator().manual_seed(seed)
            return module.forward(module.forward(torch.zeros(1, 2), generator), generator)

        return run

    module = Sampler()
    expected = [body(seed)() for seed in (1, 2)]
    rendezvous = rendezvous_at(module)
    outcomes = finish(rendezvous, [Task(str(seed), body(seed)) for seed in (1, 2)])

    assert torch.equal(outcomes["1"].result, expected[0])
    assert torch.equal(outcomes["2"].result, expected[1])
    assert rendezvous.merging == "off"


def test_a_canceled_task_frees_its_memory_at_once_and_changes_no_other_task() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)
    held: list[weakref.ref[torch.Tensor]] = []

    def endless_loop() -> torch.Tensor:
        latents = torch.zeros(1, 2)
        held.append(weakref.ref(latents))
        while True:
            module.forward(latents, torch.tensor(1), return_dict=False)

    endless, other = Task("endless", endless_loop), Task("other", loop(module, 3, 4))
    rendezvous.start(endless)
    rendezvous.start(other)
    rendezvous.step()
    gc.disable()
    try:
        rendezvous.cancel(endless)
        assert held[0]() is None, "freed without the garbage collector"
    finally:
        gc.enable()

    assert torch.equal(finish(rendezvous, [other])["other"].result, alone(Doubler, 3, 4))


def test_stock_code_that_calls_a_module_while_it_is_unwound_still_ends() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)

    def calls_in_cleanup() -> None:
        try:
            module.forward(torch.zeros(1, 2), torch.tensor(1))
        finally:
            module.forward(torch.zeros(1, 2), torch.tensor(1))

    rendezvous.start(task := Task("tidy", calls_in_cleanup))
    rendezvous.cancel(task)

    assert task.dead
    assert not rendezvous.busy


class CleanupFailed(Exception):
    """Raised by the cleanup of stock code."""


@pytest.mark.parametrize(
    "error", [CleanupFailed("a callback that is gone"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_cleanup_that_raises_while_a_task_is_canceled_changes_no_other_task(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)

    def untidy() -> None:
        try:
            loop(module, 1, 5)()
        finally:
            raise error

    canceled, other = Task("canceled", untidy), Task("other", loop(module, 3, 4))
    for task in (canceled, other):
        rendezvous.start(task)
    rendezvous.step()
    rendezvous.cancel(canceled)

    assert canceled.dead
    (record,) = caplog.records
    assert (record.getMessage(), record.task) == ("cleanup of a canceled task failed", "canceled")
    assert torch.equal(finish(rendezvous, [other])["other"].result, alone(Doubler, 3, 4))


def test_cleanup_that_calls_a_module_and_then_raises_still_ends() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)

    def untidy() -> None:
        try:
            loop(module, 1, 5)()
        except BaseException as error:
            module.forward(torch.zeros(1, 2), torch.tensor(1))
            raise CleanupFailed from error

    def stubborn() -> None:
        try:
            loop(module, 1, 5)()
        finally:
            try:
                module.forward(torch.zeros(1, 2), torch.tensor(1))
            except BaseException:  # noqa: BLE001 - as stock code may
                raise CleanupFailed from None

    for body in (untidy, stubborn):
        rendezvous.start(task := Task("untidy", body))
        rendezvous.cancel(task)
        assert task.dead
    assert not rendezvous.busy


def test_a_fatal_device_error_while_a_task_is_unwound_is_raised() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)

    def poisoned() -> None:
        try:
            loop(module, 1, 5)()
        finally:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    rendezvous.start(task := Task("poisoned", poisoned))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        rendezvous.cancel(task)


def test_an_entry_point_runs_unchanged_outside_a_task_and_keeps_its_signature() -> None:
    module = Doubler()
    before = inspect.signature(module.forward)
    rendezvous_at(module)

    assert inspect.signature(module.forward) == before
    assert torch.equal(module.forward(torch.ones(1, 2), torch.tensor(0)), torch.full((1, 2), 2.0))


def test_unwrapping_leaves_no_trace() -> None:
    plain, hooked = Doubler(), Doubler()
    hook = hooked.forward = lambda x, t: x  # type: ignore[method-assign]  # as offloading hooks do
    modules = WrappedModules()
    for module in (plain, hooked):
        modules.wrap("net", module, "forward")
    modules.unwrap()

    assert "forward" not in vars(plain)
    assert hooked.forward is hook


def test_verdicts_of_one_rendezvous_spare_the_next_its_proofs() -> None:
    module = Doubler()
    first = rendezvous_at(module, salt="v1")
    finish(first, [Task(name, loop(module, i, 2)) for i, name in enumerate("ab")])
    assert list(first.verdicts.values()) == [True]
    first.modules.unwrap()

    def seen_first(salt: str) -> list[int]:
        other = Doubler()
        second = rendezvous_at(other, salt=salt, verdicts=first.verdicts)
        finish(second, [Task(name, loop(other, i, 2)) for i, name in enumerate("ab")])
        return other.batch_sizes[:2]

    assert seen_first("v1") == [2, 2]
    assert seen_first("v2") == [1, 1], "proved anew where the salt differs"


def test_a_verdict_against_merging_is_kept_too() -> None:
    first = rendezvous_at(module := MixesRows())
    finish(first, [Task(name, loop(module, i, 2)) for i, name in enumerate("ab")])
    second = rendezvous_at(other := MixesRows(), verdicts=first.verdicts)
    finish(second, [Task(name, loop(other, i, 2)) for i, name in enumerate("ab")])
    assert other.batch_sizes == [1, 1, 1, 1]
    assert second.merging == "off"


def test_at_most_so_many_calls_share_a_forward_as_the_step_allows() -> None:
    module = Doubler()
    rendezvous = rendezvous_at(module)
    finish(rendezvous, [Task(name, loop(module, i, 1)) for i, name in enumerate("abcd")])  # the proof
    module.batch_sizes.clear()
    for i, name in enumerate("efgh"):
        rendezvous.start(Task(name, loop(module, i, 1)))
    assert len(rendezvous.peek(2).tasks) == 2
    rendezvous.step(2)
    rendezvous.step(1)
    rendezvous.step()
    assert module.batch_sizes == [2, 1, 1]


@pytest.mark.parametrize(("failures", "ends_well"), [(1, True), (2, False)])
def test_a_single_call_out_of_memory_is_tried_once_more_after_releasing_cached_memory(
    failures: int, ends_well: bool
) -> None:
    class Flaky(Doubler):
        left = failures

        def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
            if self.left:
                self.left -= 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x, t)

    rendezvous = rendezvous_at(module := Flaky())
    outcome = finish(rendezvous, [Task("a", loop(module, 1, 1))])["a"]
    assert (outcome.error is None) == ends_well
    assert rendezvous.out_of_memory_widths == [1]


@pytest.mark.parametrize("error", [NotImplementedError("of a sparse tensor"), torch.OutOfMemoryError("no room")])
def test_calls_that_cannot_be_compared_are_not_merged(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(call: Any) -> None:
        raise error

    monkeypatch.setattr(task_module, "signature_of", fail)
    module = Doubler()
    outcomes = finish(rendezvous_at(module), [Task(str(i), loop(module, i, 3)) for i in range(2)])

    for i in range(2):
        assert torch.equal(outcomes[str(i)].result, alone(Doubler, i, 3))
    assert module.batch_sizes == [1] * 6


def test_tiling_that_fails_leaves_the_job_with_its_first_error() -> None:
    class Untileable(LimitedMemory):
        def enable_tiling(self) -> None:
            raise AttributeError("no tile_sample_min_size")

    module = Untileable(1)
    rendezvous = rendezvous_at(module, "decode")
    outcome = finish(rendezvous, [Task("a", lambda: module.decode(torch.zeros(1, 2)))])["a"]

    assert isinstance(outcome.error, torch.OutOfMemoryError)
