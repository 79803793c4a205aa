"""A long forward is preempted at its blocks and resumed without a change in its output. Small real modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from unittest.mock import Mock

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from pipelines.batching import preemption, torch_modes
from pipelines.batching.preemption import layers, repeated_blocks
from pipelines.batching.task import Task
from tests.support.lanes.rendezvous import finish, rendezvous_at


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


def answers(*values: bool) -> Callable[[], bool]:
    """A `should_yield` that returns these values, then False."""
    left: Iterator[bool] = iter(values)
    return lambda: next(left, False)


def test_repeated_blocks_are_those_of_lists_and_no_single_layers(deep: Deep) -> None:
    assert list(repeated_blocks(deep)) == list(deep.blocks)


def test_a_preempted_forward_ends_the_step_and_the_next_step_resumes_it(deep: Deep) -> None:
    x = torch.randn(1, 4)
    expected = deep(x)
    rendezvous = rendezvous_at(deep)
    task = Task("a", lambda: deep(x))
    rendezvous.start(task)
    for block in deep.blocks:
        block.seen.clear()

    forward, outcomes = rendezvous.step(should_yield=answers(False, False, True))  # one question at each block
    assert (outcomes, rendezvous.mid_forward, rendezvous.busy) == (None, True, True)
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 0, 0, 0]
    assert rendezvous.peek() == forward

    _, outcomes = rendezvous.step(should_yield=answers(True))
    assert outcomes is None
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 1, 0, 0]

    _, outcomes = rendezvous.step()
    assert outcomes is not None
    assert torch.equal(outcomes[0].result, expected)
    assert not rendezvous.mid_forward
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 1, 1, 1]


def test_a_task_that_starts_during_a_forward_waits_for_the_next_one(deep: Deep) -> None:
    x = torch.randn(1, 4)
    rendezvous = rendezvous_at(deep)
    rendezvous.start(Task("a", lambda: deep(deep(x))))
    rendezvous.step(should_yield=answers(True))
    late = Task("b", lambda: deep(x))
    rendezvous.start(late)
    _, outcomes = rendezvous.step()
    assert outcomes == []
    assert rendezvous.step()[1][0].task is late


def test_a_forward_is_dropped_when_its_only_task_is_canceled_and_goes_on_when_one_of_two_is(deep: Deep) -> None:
    x = torch.randn(1, 4)
    rendezvous = rendezvous_at(deep)
    alone = Task("alone", lambda: deep(x))
    rendezvous.start(alone)
    rendezvous.step(should_yield=answers(True))
    rendezvous.cancel(alone)
    assert not rendezvous.busy
    assert [len(block.seen) for block in deep.blocks] == [0] * 5

    finish(rendezvous, [Task(name, lambda: deep(x)) for name in "cd"])  # the proof
    gone, stays = Task("gone", lambda: deep(x)), Task("stays", lambda: deep(x))
    rendezvous.start(gone)
    rendezvous.start(stays)
    rendezvous.step(should_yield=answers(True))
    rendezvous.cancel(gone)
    assert rendezvous.mid_forward
    _, outcomes = rendezvous.step()
    assert [outcome.task for outcome in outcomes] == [stays]
    assert torch.allclose(outcomes[0].result, deep(x), atol=1e-6)


def test_a_module_that_raises_while_its_forward_is_dropped_is_not_run_again(deep: Deep) -> None:
    """Stock modules have `except` blocks too. The error is no failed merge, which would be run again in parts."""
    x = torch.randn(1, 4)
    inner = deep.blocks[3].forward

    def untidy(x: torch.Tensor) -> torch.Tensor:
        try:
            return deep.blocks[4](inner(x))
        except BaseException as error:
            raise RuntimeError("an inner block failed") from error

    deep.blocks[3].forward = untidy
    rendezvous = rendezvous_at(deep)
    finish(rendezvous, [Task(name, lambda: deep(x)) for name in "ab"])  # the proof
    for block in deep.blocks:
        block.seen.clear()
    tasks = [Task(name, lambda: deep(x)) for name in "cd"]
    for task in tasks:
        rendezvous.start(task)
    rendezvous.step(should_yield=answers(False, False, False, False, True))
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 1, 1, 0]
    for task in tasks:
        rendezvous.cancel(task)

    assert not rendezvous.busy
    assert [len(block.seen) for block in deep.blocks] == [1, 1, 1, 1, 0]


def test_a_module_called_outside_of_tasks_is_never_preempted(deep: Deep) -> None:
    rendezvous = rendezvous_at(deep)
    rendezvous.start(Task("a", lambda: deep(torch.randn(1, 4))))
    rendezvous.step(should_yield=answers(True))
    assert deep(torch.randn(1, 4)).shape == (1, 4)
    rendezvous.step()


def test_unwrapped_modules_have_no_hooks_left(deep: Deep) -> None:
    rendezvous = rendezvous_at(deep)
    assert all(block._forward_pre_hooks for block in deep.blocks)
    rendezvous.modules.unwrap()
    assert not any(block._forward_pre_hooks for block in deep.blocks)


def test_autocast_of_a_task_applies_to_its_forward_and_nowhere_else(deep: Deep) -> None:
    x = torch.randn(1, 4)

    def body() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return deep(deep(x))

    expected = body()
    home = torch_modes.current()
    rendezvous = rendezvous_at(deep)
    for block in deep.blocks:
        block.seen.clear()
    rendezvous.start(Task("a", body))
    assert torch_modes.current() == home, "the task is suspended inside autocast"
    rendezvous.start(Task("b", lambda: deep(x)))
    ended = []
    while rendezvous.busy:
        ended += rendezvous.step(should_yield=answers(False, True))[1] or []
        assert torch_modes.current() == home, "between steps"

    by_name = {outcome.task.name: outcome.result for outcome in ended}
    assert torch.equal(by_name["a"], expected)
    assert torch.equal(by_name["b"], deep(x))
    assert deep.blocks[4].seen[:3] in (
        [torch.bfloat16, None, torch.bfloat16],
        [torch.bfloat16, torch.bfloat16, None],
    )


@pytest.mark.slow
def test_a_decode_is_preempted_between_its_layers_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "MIN_INTERVAL_S", 0.0)  # so that every layer asks, however fast the machine is
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=2, **kinds).requires_grad_(False)
    latents = torch.randn(1, 4, 128, 128)
    expected = vae.decode(latents).sample
    rendezvous = rendezvous_at(vae, "decode")
    rendezvous.start(Task("a", lambda: vae.decode(latents).sample))

    parts, outcomes = 0, None
    while outcomes is None:
        outcomes = rendezvous.step(should_yield=lambda: True)[1]
        parts += 1
    assert torch.equal(outcomes[0].result, expected)
    assert parts > 5, "it has one block of each kind: at blocks alone it could yield once or twice"


def test_a_network_whose_blocks_take_long_in_several_forwards_gets_yield_points_before_each_layer(
    deep: Deep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "LONG_INTERVAL_S", 0.0)
    rendezvous = rendezvous_at(deep, every_layer=True)

    def hooks(modules: Iterable[nn.Module]) -> int:
        return sum(len(module._forward_pre_hooks) for module in modules)

    assert (hooks(repeated_blocks(deep)), hooks(layers(deep))) == (5, 0)
    for number in range(preemption.LONG_FORWARDS):
        assert (hooks(repeated_blocks(deep)), hooks(layers(deep))) == (5, 0), (
            "one long interval may be the machine's doing"
        )
        rendezvous.start(Task(f"{number}", lambda: deep(torch.randn(1, 4))))
        rendezvous.step()
    assert (hooks(repeated_blocks(deep)), hooks(layers(deep))) == (0, 7)
    rendezvous.modules.unwrap()
    assert hooks(deep.modules()) == 0


def test_layers_that_follow_each_other_quickly_do_not_ask_whether_to_yield(
    deep: Deep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "LONG_INTERVAL_S", 0.0)
    rendezvous = rendezvous_at(deep, every_layer=True)
    for number in range(preemption.LONG_FORWARDS + 1):
        asked = Mock(return_value=False)
        rendezvous.start(Task(f"{number}", lambda: deep(torch.randn(1, 4))))
        rendezvous.step(should_yield=asked)
    assert 1 <= asked.call_count < len(list(layers(deep))) == 7
