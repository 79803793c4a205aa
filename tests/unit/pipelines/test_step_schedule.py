"""Which steps of a job are computed at each speed."""

from __future__ import annotations

import pytest

from pipelines.step_schedule import MIN_STEPS, SPEEDS, Speed, computed_steps, is_computed


@pytest.mark.parametrize("total", [1, 4, MIN_STEPS - 1])
def test_below_the_least_number_of_steps_each_is_computed_at_any_speed(total: int) -> None:
    assert [computed_steps(speed, total) for speed in SPEEDS] == [total] * len(SPEEDS)


def test_exact_computes_each_of_many_steps() -> None:
    assert computed_steps("exact", 100) == 100


@pytest.mark.parametrize("speed", ["balanced", "fast"])
def test_the_first_steps_and_the_last_are_computed(speed: Speed) -> None:
    computed = [step for step in range(28) if is_computed(speed, step, 28)]

    assert computed[:5] == [0, 1, 2, 3, 4]
    assert computed[-1] == 27


@pytest.mark.parametrize("total", [20, 28, 50, 100])
def test_balanced_computes_at_most_half_of_the_steps_and_fast_fewer(total: int) -> None:
    assert computed_steps("fast", total) < computed_steps("balanced", total) <= total / 2
