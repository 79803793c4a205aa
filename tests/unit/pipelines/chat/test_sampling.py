"""Sampling: the distributions are those of `generate`, and each row depends on its own seed and position alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pipelines.chat import sampling
from pipelines.chat.sampling import draw, gumbel, row_key


def draws(
    logits: Tensor,
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float | None = None,
    seed: int = 7,
) -> Tensor:
    """n samples from one row of logits, at positions 0 … n - 1 of a seed."""
    keys = torch.tensor([row_key(seed, position) for position in range(n)])
    rows = logits.expand(n, -1)
    least = None if min_p is None else torch.full((n,), min_p)
    return draw(rows, torch.full((n,), temperature), torch.full((n,), top_k), torch.full((n,), top_p), keys, least)


def assert_drawn_from(probabilities: Tensor, tokens: Tensor) -> None:
    """Every frequency is within 5 standard deviations: a false alarm in 1.7 million per token, with a fixed seed."""
    n = len(tokens)
    frequencies = torch.bincount(tokens, minlength=len(probabilities)) / n
    deviation = (probabilities * (1 - probabilities) / n).sqrt()
    assert ((frequencies - probabilities).abs() <= 5 * deviation + 1e-12).all()


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    assert_drawn_from(logits.softmax(-1), draws(logits, 20_000))


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    assert_drawn_from((logits / 0.5).softmax(-1), draws(logits, 20_000, temperature=0.5))


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.7), (4, 0.8), (1, 1.0), (0, 1e-6), (50, 0.9)])
def test_top_k_then_top_p_cut_as_generate_cuts(top_k: int, top_p: float) -> None:
    logits = torch.tensor([0.3, 2.0, 1.1, -0.5, 0.9, 1.6, -2.0])
    cut = logits[None]
    if top_k:
        cut = TopKLogitsWarper(top_k)(None, cut)
    if top_p < 1:
        cut = TopPLogitsWarper(top_p)(None, cut)
    assert_drawn_from(cut[0].softmax(-1), draws(logits, 20_000, top_k=top_k, top_p=top_p))


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(0, 1.0, 0.3), (0, 0.9, 0.3), (4, 1.0, 0.3), (3, 0.9, 0.9)])
def test_min_p_cuts_after_temperature_and_the_other_cuts_as_generate_cuts(
    top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.tensor([0.3, 2.0, 1.1, -0.5, 0.9, 1.6, -2.0])
    cut = logits[None] / 1.5
    if top_k:
        cut = TopKLogitsWarper(top_k)(None, cut)
    if top_p < 1:
        cut = TopPLogitsWarper(top_p)(None, cut)
    cut = MinPLogitsWarper(min_p)(None, cut)
    tokens = draws(logits, 20_000, temperature=1.5, top_k=top_k, top_p=top_p, min_p=min_p)
    assert_drawn_from(cut[0].softmax(-1), tokens)


def test_a_min_p_of_zero_beside_another_row_changes_no_draw() -> None:
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(3))
    row = (torch.ones(3), torch.tensor([0, 5, 0]), torch.tensor([1.0, 1.0, 0.9]), torch.tensor([3, 4, 5]))
    assert torch.equal(draw(logits, *row), draw(logits, *row, torch.zeros(3)))


@pytest.mark.slow
def test_nucleus_wider_than_the_candidates_is_not_cut_short() -> None:
    vocabulary = 4 * sampling.N_CANDIDATES
    logits = torch.linspace(0.5, 0.0, vocabulary)  # nearly flat: 80 % of the mass takes about 3100 tokens
    tokens = draws(logits, 2_000, top_p=0.8)
    assert tokens.max() > 2 * sampling.N_CANDIDATES
    mass = logits.softmax(-1).cumsum(0)
    assert mass[tokens.max() - 1] < 0.8


def test_row_draws_the_same_token_alone_and_in_a_batch() -> None:
    n, vocabulary = 12, 3_000
    logits = torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(1)) * 3
    temperature = torch.linspace(0.2, 2.0, n)
    top_k = torch.tensor([0, 5, 0, 2_000] * 3)
    top_p = torch.tensor([1.0, 1.0, 0.9, 0.5, 0.99, 1.0] * 2)
    keys = torch.tensor([row_key(seed, 3) for seed in range(n)])

    together = draw(logits, temperature, top_k, top_p, keys)
    alone = [draw(*(x[i : i + 1] for x in (logits, temperature, top_k, top_p, keys))) for i in range(n)]

    assert together.tolist() == torch.cat(alone).tolist()


def test_seed_and_position_both_change_the_noise() -> None:
    keys = [row_key(seed, position) for seed in (0, 1, 2**63 - 1) for position in (0, 1, 2)]
    assert len(set(keys)) == len(keys)
    noise = gumbel(torch.tensor(keys), torch.arange(1_000))
    correlation = torch.corrcoef(noise) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.16  # 5 standard deviations of 1 / √1000


def test_noise_is_gumbel() -> None:
    noise = gumbel(torch.tensor([row_key(5, 0)]), torch.arange(200_000))[0]
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772157, abs=5 * math.pi / math.sqrt(6 * 200_000))
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.02)


def test_noise_of_a_token_does_not_depend_on_the_other_tokens() -> None:
    keys = torch.tensor([row_key(1, 2), row_key(3, 4)])
    some = torch.tensor([[7, 900, 3], [3, 2, 11]])
    assert torch.equal(gumbel(keys, some), gumbel(keys, torch.arange(1_000)).gather(-1, some))


def test_noise_of_a_seed_never_changes_between_versions() -> None:
    noise = gumbel(torch.tensor([row_key(42, 0), row_key(42, 1)]), torch.arange(3))
    expected = [
        [1.6704560188934439, 0.05192817185272295, 2.5016353987696864],
        [-0.335625362647942, -1.2204271358496785, 1.3588281539578595],
    ]
    torch.testing.assert_close(noise, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
