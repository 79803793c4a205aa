"""The cache of one job's denoiser outputs: what it predicts, and when it computes."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipelines.diffusion.step_cache import StepCache
from pipelines.step_schedule import computed_steps

STEPS = 20
LATENTS = torch.zeros(1, 4, 2, 2)


def run(
    cache: StepCache, output_at: Callable[[int], Any], arguments: tuple[Any, ...] = (LATENTS,), steps: int = STEPS
) -> tuple[list[Any], list[int]]:
    """A loop that calls one denoiser at each step; returns what it got, and the steps that were computed."""
    computed: list[int] = []
    got = []
    cache.at_step(0, steps)
    for step in range(steps):

        def compute(step: int = step) -> Any:
            computed.append(step)
            return output_at(step)

        got.append(cache.call("transformer", arguments, compute))
        cache.at_step(step + 1, steps)
    return got, computed


def test_an_output_that_moves_on_a_line_is_predicted_exactly() -> None:
    got, computed = run(StepCache("balanced"), lambda step: (torch.full((1, 3), 2.0 - 0.125 * step),))

    assert len(computed) == computed_steps("balanced", STEPS) < STEPS
    for step, (output,) in enumerate(got):
        torch.testing.assert_close(output, torch.full((1, 3), 2.0 - 0.125 * step))


def test_a_trend_that_does_not_hold_is_not_followed() -> None:
    swings = [torch.tensor([[1.0 if step % 2 else -1.0]]) for step in range(STEPS)]

    got, computed = run(StepCache("balanced"), lambda step: swings[step])

    assert all(abs(float(output)) <= 1.0 for output in got)  # a straight line would have reached 3 and beyond
    assert len(computed) < STEPS


def test_an_output_that_does_not_change_is_returned_again() -> None:
    got, _ = run(StepCache("fast"), lambda step: torch.ones(1, 3))

    assert all(torch.equal(output, torch.ones(1, 3)) for output in got)


def test_stock_code_that_writes_to_an_output_changes_no_prediction() -> None:
    def spoiled(step: int) -> Any:
        return torch.full((1, 3), float(step))

    cache, got = StepCache("balanced"), []
    cache.at_step(0, STEPS)
    for step in range(STEPS):
        output = cache.call("transformer", (LATENTS,), lambda step=step: spoiled(step))  # type: ignore[misc]
        got.append(float(output[0, 0]))
        output.zero_()
        cache.at_step(step + 1, STEPS)

    assert got == pytest.approx(range(STEPS))


def test_two_calls_in_a_step_have_a_history_each() -> None:
    cache = StepCache("balanced")
    cache.at_step(0, STEPS)
    for step in range(STEPS):
        for sign in (1.0, -1.0):
            output = cache.call("transformer", (LATENTS,), functools.partial(torch.tensor, [sign * step]))
            assert float(output) == pytest.approx(sign * step)
        cache.at_step(step + 1, STEPS)

    assert cache.n_predicted == 2 * (STEPS - computed_steps("balanced", STEPS))


def test_a_second_denoiser_computes_its_first_steps_before_it_predicts() -> None:
    cache, computed = StepCache("fast"), []
    cache.at_step(0, STEPS)
    for step in range(STEPS):
        component = "transformer" if step < 10 else "transformer_2"

        def compute(step: int = step) -> torch.Tensor:
            computed.append(step)
            return torch.ones(1)

        cache.call(component, (LATENTS,), compute)
        cache.at_step(step + 1, STEPS)

    assert {10, 11, 12} <= set(computed)
    assert 13 not in computed


def test_after_a_pause_a_branch_computes_again() -> None:
    cache, computed = StepCache("balanced"), []
    cache.at_step(0, STEPS)
    for step in range(STEPS):
        if step != 8:  # a guidance that is off for a step
            cache.call("transformer", (LATENTS,), lambda step=step: computed.append(step) or torch.ones(1))  # type: ignore[misc]
        cache.at_step(step + 1, STEPS)

    assert {9, 10, 11} <= set(computed)


@pytest.mark.parametrize(
    "arguments",
    [(torch.zeros(1, 4, 4, dtype=torch.int64),), (torch.zeros(1, 8, dtype=torch.int64),), ()],
    ids=["tokens of a picture", "tokens of a text", "no tensor"],
)
def test_a_module_that_does_not_take_latents_is_always_computed(arguments: tuple[Any, ...]) -> None:
    _, computed = run(StepCache("fast"), lambda step: torch.ones(1), arguments)

    assert computed == list(range(STEPS))


def test_latents_in_lists_are_found() -> None:
    _, computed = run(StepCache("fast"), lambda step: [torch.ones(1, 2)], ([[torch.zeros(4, 1, 2, 2)]],))

    assert len(computed) == computed_steps("fast", STEPS)


def test_calls_outside_a_loop_are_computed() -> None:
    cache = StepCache("fast")

    assert [cache.call("text_encoder", (LATENTS,), lambda n=n: n) for n in range(30)] == list(range(30))  # type: ignore[misc]
    assert cache.n_predicted == 0


def test_the_end_of_the_loop_frees_the_outputs() -> None:
    cache = StepCache("balanced")
    kept: list[weakref.ref[torch.Tensor]] = []
    cache.at_step(0, STEPS)
    for step in range(STEPS):
        cache.call("transformer", (LATENTS,), lambda step=step: torch.full((1, 3), float(step)))  # type: ignore[misc]
        kept += [weakref.ref(leaf) for each in cache._histories.values() for one in each.outputs for leaf in one.leaves]
        cache.at_step(step + 1, STEPS)
    gc.collect()

    assert kept
    assert not [ref for ref in kept if ref() is not None]
