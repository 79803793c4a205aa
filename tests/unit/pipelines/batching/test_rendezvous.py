"""Tasks that know nothing of each other meet at every call. Driven by hand, with modules small enough to see through."""

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
from pipelines.batching.task import Outcome, Task


class Doubler:
    """A module that keeps its rows apart. Remembers how many rows each forward had."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
        self.seen.append(len(x))
        return x * 2 + t.reshape(-1, 1)


class Centred(Doubler):
    """Like a batch norm: what a row gives depends on the others."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
        return super().forward(x, t) - x.mean()


class FirstClock(Doubler):
    """Takes the timestep of the first row for all."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
        return super().forward(x, t.reshape(-1)[:1])


class Small(Doubler):
    """Has room for `room` rows; with `tiling`, for any number."""

    def __init__(self, room: int, refusal: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.room = room
        self.refusal = refusal
        self.tiling = False
        self.refused: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
        if len(x) > self.room:
            self.refused.append(len(x))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x, t)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        if not self.tiling:
            raise self.refusal("out of memory, or of what it can do")
        return x + 1

    def enable_tiling(self) -> None:
        self.tiling = True

    def disable_tiling(self) -> None:
        self.tiling = False


def loop(module: Any, value: float, steps: int, *, t0: int = 10, rows: int = 1) -> Callable[[], torch.Tensor]:
    """Stock code: a loop of calls, each fed by the last."""

    def body() -> torch.Tensor:
        x = torch.full((rows, 2), float(value))
        for step in range(steps):
            x = module.forward(x, torch.tensor(t0 - step), return_dict=False) / 4
        return x

    return body


def alone(module_type: type[Doubler], value: float, steps: int, **options: Any) -> torch.Tensor:
    return loop(module_type(), value, steps, **options)()


def finish(meeting: Rendezvous, tasks: list[Task]) -> dict[str, Outcome]:
    """Start those that are not running yet, and step until all have ended."""
    fresh = [task for task in tasks if task.pending_call is None]
    outcomes = [outcome for outcome in map(meeting.start, fresh) if outcome is not None]
    while meeting.busy:
        outcomes += meeting.step()[1]
    assert sorted(outcome.task.name for outcome in outcomes) == sorted(task.name for task in tasks)
    return {outcome.task.name: outcome for outcome in outcomes}


def meeting_at(module: Any, entry: str = "forward", **options: Any) -> Rendezvous:
    meeting = Rendezvous(**options)
    meeting.wrap("net", module, entry)
    return meeting


def test_tasks_of_different_length_share_forwards_and_get_what_they_would_alone() -> None:
    module = Doubler()
    meeting = meeting_at(module)
    lengths = {"a": 3, "b": 5, "c": 2, "d": 5}
    tasks = [Task(name, loop(module, i, lengths[name])) for i, name in enumerate(lengths)]

    outcomes = finish(meeting, tasks)

    for i, name in enumerate(lengths):
        assert torch.equal(outcomes[name].result, alone(Doubler, i, lengths[name]))
    assert module.seen[:6] == [1, 1, 1, 1, 1, 4], "four alone and a stranger, then all together: the proof"
    assert module.seen[7:] == [4, 4, 2, 2], "then one forward for all that are left; three run as four, two as two"
    assert meeting.merging == "on"
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
        meeting_at(module),
        [Task(name, body, rng_state=RngState(seed)) for name, seed in (("a", 7), ("b", 8), ("c", 7))],
    )

    assert torch.equal(outcomes["a"].result, by_itself)
    assert torch.equal(outcomes["c"].result, by_itself)
    assert not torch.equal(outcomes["b"].result, by_itself)
    assert torch.equal(torch.get_rng_state(), around), "and nobody else's are touched"


def test_calls_that_meet_and_never_agree_are_what_merging_speaks_of_though_others_merge() -> None:
    meeting, encoder, denoiser = Rendezvous(), Doubler(), Doubler()
    meeting.wrap("encoder", encoder, "forward")
    meeting.wrap("denoiser", denoiser, "forward")

    def body(size: int) -> None:
        encoder.forward(torch.zeros(1, 2), torch.tensor(1))
        for step in range(4):
            denoiser.forward(torch.zeros(1, size), torch.tensor(step))

    finish(meeting, [Task(str(size), functools.partial(body, size)) for size in (2, 3, 4)])

    assert list(meeting.verdicts.values()) == [True], "of the encoder"
    assert meeting.merging == "unproven"


def test_one_task_alone_is_neither_looked_at_nor_changed() -> None:
    module = Doubler()
    meeting = meeting_at(module)
    outcome = finish(meeting, [task := Task("a", loop(module, 1, 3))])["a"]

    assert torch.equal(outcome.result, alone(Doubler, 1, 3))
    assert module.seen == [1, 1, 1]
    assert (task.batch_peak, meeting.merging) == (1, "unproven")


def test_a_task_that_arrives_midway_joins_the_batch() -> None:
    module = Doubler()
    meeting = meeting_at(module)
    first, second, late = tasks = [Task(name, loop(module, i, 6)) for i, name in enumerate("abc")]
    meeting.start(first)
    meeting.start(second)
    for _ in range(3):
        meeting.step()
    outcomes = finish(meeting, tasks)

    for i, name in enumerate("abc"):
        assert torch.equal(outcomes[name].result, alone(Doubler, i, 6))
    assert (first.batch_peak, second.batch_peak, late.batch_peak) == (4, 4, 4), "three run as four"


@pytest.mark.parametrize("module_type", [Centred, FirstClock])
@pytest.mark.parametrize("values", [(1.0, 2.0), (1.0, 1.0)], ids=["different jobs", "the same job twice"])
def test_a_module_that_mixes_its_rows_is_found_out_and_never_merged(
    module_type: type[Doubler], values: tuple[float, float]
) -> None:
    module = module_type()
    meeting = meeting_at(module)
    tasks = [Task(str(i), loop(module, value, 4)) for i, value in enumerate(values)]

    outcomes = finish(meeting, tasks)

    for i, value in enumerate(values):
        assert torch.equal(outcomes[str(i)].result, alone(module_type, value, 4))
    assert meeting.merging == "off"
    assert [task.batch_peak for task in tasks] == [1, 1]
    later = finish(meeting, [Task("x", loop(module, 5.0, 4)), Task("y", loop(module, 6.0, 2, t0=3))])
    assert torch.equal(later["x"].result, alone(module_type, 5.0, 4))
    assert torch.equal(later["y"].result, alone(module_type, 6.0, 2, t0=3))


def test_a_task_that_must_not_merge_runs_between_the_others() -> None:
    module = Doubler()
    meeting = meeting_at(module)
    free = [Task(name, loop(module, 1, 3)) for name in "ab"]
    pinned = Task("pinned", loop(module, 7, 3), mergeable=False)

    outcomes = finish(meeting, [free[0], pinned, free[1]])

    assert torch.equal(outcomes["pinned"].result, alone(Doubler, 7, 3))
    assert (pinned.batch_peak, free[0].batch_peak) == (1, 2)


def test_merging_switched_off_lets_tasks_take_turns() -> None:
    module = Doubler()
    meeting = meeting_at(module, merging="off")
    finish(meeting, [Task(name, loop(module, 1, 3)) for name in "ab"])

    assert module.seen == [1] * 6
    assert meeting.merging == "off"


def test_a_call_that_raises_fails_its_own_task_alone() -> None:
    class Picky(Doubler):
        def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
            if bool((x > 90).any()):
                raise RuntimeError("too large")
            return super().forward(x, t)

    module = Picky()
    meeting = meeting_at(module)
    finish(meeting, [Task(name, loop(module, 1, 2)) for name in "xy"])  # proved

    outcomes = finish(meeting, [Task(str(value), loop(module, value, 3)) for value in (1.0, 99.0, 2.0)])

    assert isinstance(outcomes["99.0"].error, RuntimeError)
    for value in (1.0, 2.0):
        assert torch.equal(outcomes[str(value)].result, alone(Doubler, value, 3))
    assert meeting.merging == "on"


def test_a_merged_forward_that_runs_out_of_memory_is_split_and_the_width_remembered() -> None:
    module = Small(room=3)
    meeting = meeting_at(module)
    outcomes = finish(meeting, [Task(str(i), loop(module, i, 5)) for i in range(8)])

    for i in range(8):
        assert torch.equal(outcomes[str(i)].result, alone(Doubler, i, 5))
    assert module.refused == [8, 4], "each width is tried once"
    assert meeting.merging == "on", "running out of memory says nothing about the rows"


@pytest.mark.slow
def test_memory_that_runs_out_after_the_proof_splits_the_forward_too() -> None:
    module = Small(room=8)
    meeting = meeting_at(module)
    finish(meeting, [Task(str(i), loop(module, i, 2)) for i in range(4)])
    module.room = 1
    outcomes = finish(meeting, tasks := [Task(str(i), loop(module, i, 3)) for i in range(4)])

    for i in range(4):
        assert torch.equal(outcomes[str(i)].result, alone(Doubler, i, 3))
    assert module.refused == [4, 2, 2]
    assert [task.batch_peak for task in tasks] == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("refusal", [torch.OutOfMemoryError, NotImplementedError])
def test_a_single_decode_that_cannot_be_done_whole_is_done_in_tiles(refusal: type[Exception]) -> None:
    module = Small(1, refusal)
    meeting = meeting_at(module, "decode")
    outcomes = finish(
        meeting, [Task(str(i), lambda i=i: module.decode(torch.full((1, 2), float(i)))) for i in range(2)]
    )

    assert [float(outcomes[str(i)].result[0, 0]) for i in range(2)] == [1.0, 2.0]
    assert not module.tiling, "and only this once"


def test_a_single_call_that_never_fits_fails_its_own_task() -> None:
    module = Small(room=1)
    meeting = meeting_at(module)
    big, small = Task("big", loop(module, 1, 2, rows=2)), Task("small", loop(module, 1, 2))

    outcomes = finish(meeting, [big, small])

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
    meeting = meeting_at(module)
    outcomes = finish(meeting, [Task(str(seed), body(seed)) for seed in (1, 2)])

    assert torch.equal(outcomes["1"].result, expected[0])
    assert torch.equal(outcomes["2"].result, expected[1])
    assert meeting.merging == "off"


def test_a_cancelled_task_frees_what_it_held_at_once_and_harms_nobody() -> None:
    module = Doubler()
    meeting = meeting_at(module)
    held: list[weakref.ref[torch.Tensor]] = []

    def hoarder() -> torch.Tensor:
        latents = torch.zeros(1, 2)
        held.append(weakref.ref(latents))
        while True:
            module.forward(latents, torch.tensor(1), return_dict=False)

    endless, other = Task("endless", hoarder), Task("other", loop(module, 3, 4))
    meeting.start(endless)
    meeting.start(other)
    meeting.step()
    gc.disable()
    try:
        meeting.cancel(endless)
        assert held[0]() is None, "freed without the garbage collector"
    finally:
        gc.enable()

    assert torch.equal(finish(meeting, [other])["other"].result, alone(Doubler, 3, 4))


def test_stock_code_that_calls_a_module_while_it_is_unwound_still_ends() -> None:
    module = Doubler()
    meeting = meeting_at(module)

    def tidy() -> None:
        try:
            module.forward(torch.zeros(1, 2), torch.tensor(1))
        finally:
            module.forward(torch.zeros(1, 2), torch.tensor(1))

    meeting.start(task := Task("tidy", tidy))
    meeting.cancel(task)

    assert task.dead
    assert not meeting.busy


class Unwound(Exception):
    """What a cleanup of stock code raises."""


@pytest.mark.parametrize("error", [Unwound("a callback that is gone"), torch.OutOfMemoryError("CUDA out of memory")])
def test_cleanup_that_raises_while_a_task_is_canceled_harms_nobody(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    module = Doubler()
    meeting = meeting_at(module)

    def untidy() -> None:
        try:
            loop(module, 1, 5)()
        finally:
            raise error

    canceled, other = Task("canceled", untidy), Task("other", loop(module, 3, 4))
    for task in (canceled, other):
        meeting.start(task)
    meeting.step()
    meeting.cancel(canceled)

    assert canceled.dead
    (record,) = caplog.records
    assert (record.getMessage(), record.task) == ("cleanup of a canceled task failed", "canceled")  # type: ignore[attr-defined]
    assert torch.equal(finish(meeting, [other])["other"].result, alone(Doubler, 3, 4))


def test_cleanup_that_calls_a_module_and_then_raises_still_ends() -> None:
    module = Doubler()
    meeting = meeting_at(module)

    def untidy() -> None:
        try:
            loop(module, 1, 5)()
        except BaseException as error:
            module.forward(torch.zeros(1, 2), torch.tensor(1))
            raise Unwound from error

    def stubborn() -> None:
        try:
            loop(module, 1, 5)()
        finally:
            try:
                module.forward(torch.zeros(1, 2), torch.tensor(1))
            except BaseException:  # noqa: BLE001 - as stock code may
                raise Unwound from None

    for body in (untidy, stubborn):
        meeting.start(task := Task("untidy", body))
        meeting.cancel(task)
        assert task.dead
    assert not meeting.busy


def test_a_lost_device_that_shows_while_a_task_is_unwound_is_let_through() -> None:
    module = Doubler()
    meeting = meeting_at(module)

    def poisoned() -> None:
        try:
            loop(module, 1, 5)()
        finally:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    meeting.start(task := Task("poisoned", poisoned))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        meeting.cancel(task)


def test_an_entry_point_runs_as_ever_outside_a_task_and_keeps_its_signature() -> None:
    module = Doubler()
    before = inspect.signature(module.forward)
    meeting_at(module)

    assert inspect.signature(module.forward) == before
    assert torch.equal(module.forward(torch.ones(1, 2), torch.tensor(0)), torch.full((1, 2), 2.0))


def test_unwrapping_leaves_no_trace() -> None:
    plain, hooked = Doubler(), Doubler()
    hook = hooked.forward = lambda x, t: x  # type: ignore[method-assign]  # as offloading hooks do
    meeting = Rendezvous()
    for module in (plain, hooked):
        meeting.wrap("net", module, "forward")
    meeting.unwrap()

    assert "forward" not in vars(plain)
    assert hooked.forward is hook


def test_verdicts_of_one_meeting_spare_the_next_its_proofs() -> None:
    module = Doubler()
    first = meeting_at(module, salt="v1")
    finish(first, [Task(name, loop(module, i, 2)) for i, name in enumerate("ab")])
    assert list(first.verdicts.values()) == [True]
    first.unwrap()

    def seen_first(salt: str) -> list[int]:
        other = Doubler()
        second = meeting_at(other, salt=salt, verdicts=first.verdicts)
        finish(second, [Task(name, loop(other, i, 2)) for i, name in enumerate("ab")])
        return other.seen[:2]

    assert seen_first("v1") == [2, 2]
    assert seen_first("v2") == [1, 1], "proved anew where the salt differs"


def test_a_verdict_against_merging_is_kept_too() -> None:
    first = meeting_at(module := Centred())
    finish(first, [Task(name, loop(module, i, 2)) for i, name in enumerate("ab")])
    second = meeting_at(other := Centred(), verdicts=first.verdicts)
    finish(second, [Task(name, loop(other, i, 2)) for i, name in enumerate("ab")])
    assert other.seen == [1, 1, 1, 1]
    assert second.merging == "off"


def test_at_most_so_many_calls_share_a_forward_as_the_step_allows() -> None:
    module = Doubler()
    meeting = meeting_at(module)
    finish(meeting, [Task(name, loop(module, i, 1)) for i, name in enumerate("abcd")])  # the proof
    module.seen.clear()
    for i, name in enumerate("efgh"):
        meeting.start(Task(name, loop(module, i, 1)))
    assert len(meeting.peek(2).tasks) == 2
    meeting.step(2)
    meeting.step(1)
    meeting.step()
    assert module.seen == [2, 1, 1]


@pytest.mark.parametrize(("failures", "ends_well"), [(1, True), (2, False)])
def test_a_single_call_out_of_memory_is_tried_once_more_with_the_cache_given_back(
    failures: int, ends_well: bool
) -> None:
    class Flaky(Doubler):
        left = failures

        def forward(self, x: torch.Tensor, t: torch.Tensor, *, return_dict: bool = True) -> torch.Tensor:
            if self.left:
                self.left -= 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x, t)

    meeting = meeting_at(module := Flaky())
    outcome = finish(meeting, [Task("a", loop(module, 1, 1))])["a"]
    assert (outcome.error is None) == ends_well
    assert meeting.out_of_memory_widths == [1]


@pytest.mark.parametrize("error", [NotImplementedError("of a sparse tensor"), torch.OutOfMemoryError("no room")])
def test_calls_that_cannot_be_compared_are_not_merged(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(call: Any) -> None:
        raise error

    monkeypatch.setattr(task_module, "signature_of", fail)
    module = Doubler()
    outcomes = finish(meeting_at(module), [Task(str(i), loop(module, i, 3)) for i in range(2)])

    for i in range(2):
        assert torch.equal(outcomes[str(i)].result, alone(Doubler, i, 3))
    assert module.seen == [1] * 6


def test_tiling_that_fails_leaves_the_job_with_its_first_error() -> None:
    class Untileable(Small):
        def enable_tiling(self) -> None:
            raise AttributeError("no tile_sample_min_size")

    module = Untileable(1)
    meeting = meeting_at(module, "decode")
    outcome = finish(meeting, [Task("a", lambda: module.decode(torch.zeros(1, 2)))])["a"]

    assert isinstance(outcome.error, torch.OutOfMemoryError)
