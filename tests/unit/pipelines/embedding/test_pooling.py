"""Each mode of pooling on numbers that can be worked out by hand. Rows are padded at their ends."""

from __future__ import annotations

import pytest
import torch

from pipelines.embedding.pooling import POOLS, pool

HIDDEN = torch.tensor([[[1.0, -2.0], [3.0, 4.0], [5.0, 0.0], [99.0, 99.0]], [[2.0, 2.0]] * 4])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [1.0, -2.0]),
        ("lasttoken", [5.0, 0.0]),
        ("mean", [3.0, 2 / 3]),
        ("mean_sqrt_len_tokens", [9 / 3**0.5, 2 / 3**0.5]),
        ("weightedmean", [22 / 6, 1.0]),
        ("max", [5.0, 4.0]),
    ],
)
def test_a_row_is_pooled_over_its_own_tokens(mode: str, expected: list[float]) -> None:
    first, second = pool([mode], HIDDEN, MASK)

    assert torch.allclose(first, torch.tensor(expected))
    assert torch.allclose(second, torch.tensor([2.0, 2.0]) * (2.0 if mode == "mean_sqrt_len_tokens" else 1.0))


def test_several_modes_stand_side_by_side_in_the_order_given() -> None:
    both = pool(["lasttoken", "cls"], HIDDEN, MASK)

    assert both[0].tolist() == [5.0, 0.0, 1.0, -2.0]


@pytest.mark.parametrize("mode", POOLS)
def test_a_row_of_which_no_token_counts_gives_finite_numbers(mode: str) -> None:
    assert torch.isfinite(pool([mode], HIDDEN, torch.zeros_like(MASK))).all()
