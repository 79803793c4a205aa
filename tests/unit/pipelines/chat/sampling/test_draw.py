"""Sampling: the distributions are those of `generate`, and each row depends on its own seed and position alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pipelines.chat.sampling import draw
from pipelines.chat.sampling.draw import Draw, n_candidates
from pipelines.chat.sampling.noise import gumbel, gumbel_of_all, row_keys
from pipelines.chat_interface import ChatRequest, Prompt

CPU = torch.device("cpu")


def request(**settings: float) -> ChatRequest:
    return ChatRequest(id="c", prompt=Prompt(tokens=(1,)), **{"temperature": 1.0, **settings})  # type: ignore[arg-type]


def draws(logits: Tensor, n: int, **settings: float) -> Tensor:
    """n samples from one row of logits, at positions 0 … n - 1 of a seed."""
    asked, vocabulary = request(**settings), logits.shape[-1]
    draw = Draw([asked] * n, n_candidates(asked, vocabulary), vocabulary, CPU)
    return draw(logits.expand(n, -1), row_keys([7], [0], n)[0])


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


def test_only_settings_that_cut_something_look_at_candidates() -> None:
    vocabulary = 4 * draw.N_CANDIDATES
    assert n_candidates(request(), vocabulary) == 0
    assert n_candidates(request(top_k=vocabulary, min_p=0.5), vocabulary) == 0
    assert n_candidates(request(top_p=0.9), vocabulary) == draw.N_CANDIDATES
    assert n_candidates(request(top_k=draw.N_CANDIDATES), vocabulary) == draw.N_CANDIDATES
    assert n_candidates(request(top_k=draw.N_CANDIDATES + 1), vocabulary) == vocabulary
    assert n_candidates(request(top_k=5), 100) == 100


@pytest.mark.slow
def test_nucleus_wider_than_the_candidates_is_not_cut_short() -> None:
    vocabulary = 4 * draw.N_CANDIDATES
    logits = torch.linspace(0.5, 0.0, vocabulary)  # nearly flat: 80 % of the mass takes about 3100 tokens
    tokens = draws(logits, 2_000, top_p=0.8)
    assert tokens.max() > 2 * draw.N_CANDIDATES
    mass = logits.softmax(-1).cumsum(0)
    assert mass[tokens.max() - 1] < 0.8


def test_seed_and_position_both_change_the_noise() -> None:
    keys = row_keys([0, 1, 2**63 - 1], [0, 0, 0], 3).flatten()
    assert len(set(keys.tolist())) == len(keys)
    noise = gumbel_of_all(keys, 1_000)
    correlation = torch.corrcoef(noise) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.16  # 5 standard deviations of 1 / √1000


def test_noise_is_gumbel() -> None:
    noise = gumbel_of_all(row_keys([5], [0], 1)[0], 200_000)[0]
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772157, abs=5 * math.pi / math.sqrt(6 * 200_000))
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.02)


def test_noise_of_a_token_does_not_depend_on_the_other_tokens() -> None:
    keys = row_keys([1, 3], [2, 4], 1)[:, 0]
    some = torch.tensor([[7, 900, 3], [3, 2, 11]])
    assert torch.equal(gumbel(keys, some), gumbel_of_all(keys, 1_000).gather(-1, some))


def test_noise_of_a_seed_never_changes_between_versions() -> None:
    noise = gumbel_of_all(row_keys([42], [0], 2)[0], 3)
    expected = [
        [1.6704560188934439, 0.05192817185272295, 2.5016353987696864],
        [-0.335625362647942, -1.2204271358496785, 1.3588281539578595],
    ]
    torch.testing.assert_close(noise, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_keys_of_later_tokens_are_those_of_a_reply_that_is_longer() -> None:
    keys = row_keys([3, -1], [5, 0], 4)
    assert torch.equal(row_keys([3, 2**64 - 1], [7, 2], 2), keys[:, 2:])
