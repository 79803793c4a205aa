"""A long forward gives way at its blocks and goes on as if nothing had been. Real modules, small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from unittest.mock import Mock

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from pipelines.batching import preemption, torch_modes
from pipelines.batching.preemption import layers, repeated_blocks
from pipelines.batching.rendezvous import Rendezvous
from pipelines.batching.task import Task
from tests.unit.pipelines.batching.test_rendezvous import finish


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen: list[object] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return x + self.linear(x).tanh()


class Deep(nn.Module):
    def __init__(self, n_blocks: int = 5) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(n_blocks))
        self.out = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.out[0](x)


@pytest.fixture
def deep() -> Deep:
    torch.manual_seed(0)
    return Deep().requires_grad_(False)


def asker(*answers: bool) -> Callable[[], bool]:
    """Says these, then no."""
    left: Iterator[bool] = iter(answers)
    return lambda: next(left, False)


def meeting_at(deep: Deep) -> Rendezvous:
    meeting = Rendezvous()
    meeting.wrap("net", deep, "forward")
    return meeting


def test_repeated_blocks_are_those_of_lists_and_no_single_layers(deep: Deep) -> None:
    assert list(repeated_blocks(deep)) == list(deep.blocks)


def test_forward_that_gives_way_ends_the_step_there_and_the_next_step_goes_on(deep: Deep) -> None:
    x = torch.randn(1, 4)
    expected = deep(x)
    meeting = meeting_at(deep)
    task = Task("a", lambda: deep(x))
    meeting.start(task)
    for block in deep.blocks:
        block.seen.clear()

    forward, outcomes = meeting.step(should_yield=asker(False, False, True))  # one ask at each block
    assert (outcomes, meeting.mid_forward, meeting.busy) == (None, True, True)
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 0, 0, 0]
    assert meeting.peek() == forward

    _, outcomes = meeting.step(should_yield=asker(True))
    assert outcomes is None
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 1, 0, 0]

    _, outcomes = meeting.step()
    assert outcomes is not None
    assert torch.equal(outcomes[0].result, expected)
    assert not meeting.mid_forward
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 1, 1, 1]


def test_a_task_that_comes_midway_waits_for_the_next_forward(deep: Deep) -> None:
    x = torch.randn(1, 4)
    meeting = meeting_at(deep)
    meeting.start(Task("a", lambda: deep(deep(x))))
    meeting.step(should_yield=asker(True))
    late = Task("b", lambda: deep(x))
    meeting.start(late)
    _, outcomes = meeting.step()
    assert outcomes == []
    assert meeting.step()[1][0].task is late


def test_canceled_midway_the_forward_of_one_is_dropped_and_that_of_two_goes_on(deep: Deep) -> None:
    x = torch.randn(1, 4)
    meeting = meeting_at(deep)
    alone = Task("alone", lambda: deep(x))
    meeting.start(alone)
    meeting.step(should_yield=asker(True))
    meeting.cancel(alone)
    assert not meeting.busy
    assert [len(block.seen) for block in deep.blocks] == [0] * 5

    finish(meeting, [Task(name, lambda: deep(x)) for name in "cd"])  # the proof
    gone, stays = Task("gone", lambda: deep(x)), Task("stays", lambda: deep(x))
    meeting.start(gone)
    meeting.start(stays)
    meeting.step(should_yield=asker(True))
    meeting.cancel(gone)
    assert meeting.mid_forward
    _, outcomes = meeting.step()
    assert [outcome.task for outcome in outcomes] == [stays]
    assert torch.allclose(outcomes[0].result, deep(x), atol=1e-6)


def test_a_module_that_raises_while_its_forward_is_dropped_is_not_run_again(deep: Deep) -> None:
    """Stock modules have `except` blocks too: what they raise is no failed merge, to be run once more in parts."""
    x = torch.randn(1, 4)
    inner = deep.blocks[3].forward

    def untidy(x: torch.Tensor) -> torch.Tensor:
        try:
            return deep.blocks[4](inner(x))
        except BaseException as error:
            raise RuntimeError("an inner block failed") from error

    deep.blocks[3].forward = untidy
    meeting = meeting_at(deep)
    finish(meeting, [Task(name, lambda: deep(x)) for name in "ab"])  # the proof
    for block in deep.blocks:
        block.seen.clear()
    tasks = [Task(name, lambda: deep(x)) for name in "cd"]
    for task in tasks:
        meeting.start(task)
    meeting.step(should_yield=asker(False, False, False, False, True))
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 1, 1, 0]
    for task in tasks:
        meeting.cancel(task)

    assert not meeting.busy
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 1, 1, 0]


def test_called_outside_of_tasks_a_module_never_gives_way(deep: Deep) -> None:
    meeting = meeting_at(deep)
    meeting.start(Task("a", lambda: deep(torch.randn(1, 4))))
    meeting.step(should_yield=asker(True))
    assert deep(torch.randn(1, 4)).shape == (1, 4)
    meeting.step()


def test_unwrapped_modules_have_no_hooks_left(deep: Deep) -> None:
    meeting = meeting_at(deep)
    assert all(block._forward_pre_hooks for block in deep.blocks)
    meeting.unwrap()
    assert not any(block._forward_pre_hooks for block in deep.blocks)


def test_autocast_of_a_task_is_in_force_in_its_forward_and_nowhere_else(deep: Deep) -> None:
    x = torch.randn(1, 4)

    def body() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return deep(deep(x))

    expected = body()
    home = torch_modes.current()
    meeting = meeting_at(deep)
    for block in deep.blocks:
        block.seen.clear()
    meeting.start(Task("a", body))
    assert torch_modes.current() == home, "parked inside autocast"
    meeting.start(Task("b", lambda: deep(x)))
    ended = []
    while meeting.busy:
        ended += meeting.step(should_yield=asker(False, True))[1] or []
        assert torch_modes.current() == home, "between steps"

    by_name = {outcome.task.name: outcome.result for outcome in ended}
    assert torch.equal(by_name["a"], expected)
    assert torch.equal(by_name["b"], deep(x))
    assert deep.blocks[4].seen[:3] in (
        [torch.bfloat16, None, torch.bfloat16],
        [torch.bfloat16, torch.bfloat16, None],
    )


def test_a_decode_gives_way_between_its_layers_and_decodes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "MIN_INTERVAL_S", 0.0)  # however quick the machine
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=2, **kinds).requires_grad_(False)
    latents = torch.randn(1, 4, 128, 128)
    expected = vae.decode(latents).sample
    meeting = Rendezvous()
    meeting.wrap("vae", vae, "decode")
    meeting.start(Task("a", lambda: vae.decode(latents).sample))

    parts, outcomes = 0, None
    while outcomes is None:
        outcomes = meeting.step(should_yield=lambda: True)[1]
        parts += 1
    assert torch.equal(outcomes[0].result, expected)
    assert parts > 5, "it has one block of each kind: between blocks alone it could stop but once or twice"


def test_a_forward_that_is_long_between_its_blocks_can_stop_before_each_layer_once_it_was_so_often_enough(
    deep: Deep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "LONG_INTERVAL_S", 0.0)
    meeting = Rendezvous(every_layer=True)
    meeting.wrap("net", deep, "forward")

    def hooks(modules: Iterable[nn.Module]) -> int:
        return sum(len(module._forward_pre_hooks) for module in modules)

    assert (hooks(repeated_blocks(deep)), hooks(layers(deep))) == (5, 0)
    for number in range(preemption.LONG_FORWARDS):
        assert (hooks(repeated_blocks(deep)), hooks(layers(deep))) == (5, 0), "one long stretch may be the machine's"
        meeting.start(Task(f"{number}", lambda: deep(torch.randn(1, 4))))
        meeting.step()
    assert (hooks(repeated_blocks(deep)), hooks(layers(deep))) == (0, 7)
    meeting.unwrap()
    assert hooks(deep.modules()) == 0


def test_layers_that_follow_each_other_in_an_instant_ask_nobody(deep: Deep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "LONG_INTERVAL_S", 0.0)
    meeting = Rendezvous(every_layer=True)
    meeting.wrap("net", deep, "forward")
    for number in range(preemption.LONG_FORWARDS + 1):
        asked = Mock(return_value=False)
        meeting.start(Task(f"{number}", lambda: deep(torch.randn(1, 4))))
        meeting.step(should_yield=asked)
    assert 1 <= asked.call_count < len(list(layers(deep))) == 7
