"""The choice of tokens on a real GPU: the tokens of the CPU, by kernels and without them, and never a wait."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines import device as devices
from pipelines.chat.sampling.batch_sampler import BatchSampler
from tests.support.sampled_chat import SampledChat, chat

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

VOCABULARY = 32_003
N_STEPS = 4
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "greedy": [{}] * 3,
    "temperature": [{"temperature": 1.0}, {"temperature": 0.3, "min_p": 0.1}],
    "top_p": [{"temperature": 0.7, "top_p": 0.9}, {"temperature": 1.0, "top_p": 0.5, "min_p": 0.05}],
    "nuclei wider than the candidates": [
        {"temperature": 5.0, "top_p": 0.95},
        {"temperature": 9.0, "top_p": 0.6, "min_p": 1e-4},
        {"temperature": 0.3, "top_p": 0.6},
    ],
    "top_k": [{"temperature": 1.0, "top_k": 40}, {"temperature": 2.0, "top_k": 3_000, "top_p": 0.8}],
    "penalties": [
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 1.0, "presence_penalty": 1.0},
        {"temperature": 1.0, "repetition_penalty": 0.9, "logit_bias": ((5, 9.0), (7, -100.0))},
    ],
    "end tokens": [{"min_tokens": 2, "logit_bias": ((2, 99.0),)}, {}],
    "log probabilities": [{"n_logprobs": 5}, {}, {"temperature": 1.0, "n_logprobs": 0}],
    "all kinds": [
        {},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.95, "n_logprobs": 20},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "frequency_penalty": 0.2},
        {"temperature": 4.0, "top_p": 0.9},
    ],
}


@pytest.fixture(params=["kernels", "torch"])
def without_kernels(request: pytest.FixtureRequest) -> Iterator[bool]:
    if request.param == "kernels" and find_spec("triton") is None:
        pytest.skip("needs Triton")
    return request.param == "torch"


def sampler_of(chats: list[SampledChat], device: str, without_kernels: bool) -> BatchSampler:
    sampler = BatchSampler({one.id: one for one in chats}, torch.device(device))  # type: ignore[misc]
    assert sampler.notes == ()
    if without_kernels:
        sampler._kernels = None
    return sampler


def chats_with(settings: list[dict[str, Any]]) -> list[SampledChat]:
    return [chat(11, 12, 12, id=str(row), seed=row, **each) for row, each in enumerate(settings)]


def logits_of(step: int, n_rows: int) -> Tensor:
    """As a model's in bfloat16, but no two equal: which of them are among the likeliest is not defined."""
    return (
        torch.randn(n_rows, VOCABULARY, dtype=torch.double, generator=torch.Generator().manual_seed(step)).float() * 3
    )


def replies(settings: list[dict[str, Any]], device: str, without_kernels: bool) -> tuple[list[list[int]], list[Any]]:
    chats = chats_with(settings)
    sampler, logprobs = sampler_of(chats, device, without_kernels), []
    for step in range(N_STEPS):
        tokens = sampler([one.id for one in chats], logits_of(step, len(chats)).to(device)).tolist()
        logprobs.append(sampler.take_logprobs())
        for one, token in zip(chats, tokens, strict=True):
            one.tokens.append(token)
    return [one.tokens for one in chats], logprobs


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_gpu_chooses_the_tokens_of_the_cpu(kind: str, without_kernels: bool) -> None:
    on_gpu, told_on_gpu = replies(SETTINGS[kind], "cuda", without_kernels)
    on_cpu, told_on_cpu = replies(SETTINGS[kind], "cpu", without_kernels=True)
    assert on_gpu == on_cpu
    for ours, theirs in zip(told_on_gpu, told_on_cpu, strict=True):
        assert ours.keys() == theirs.keys()
        for name, (logprob, likeliest) in ours.items():
            assert logprob == pytest.approx(theirs[name][0], abs=1e-4)
            assert [token for token, _ in likeliest] == [token for token, _ in theirs[name][1]]


@pytest.mark.parametrize("kind", SETTINGS)
def test_choosing_does_not_wait_for_the_device(kind: str) -> None:
    """Neither the first choice, for which the settings are copied, nor the next ones."""
    if find_spec("triton") is None:
        pytest.skip("needs Triton")
    chats = chats_with(SETTINGS[kind])
    sampler = sampler_of(chats, "cuda", without_kernels=False)
    rows = [logits_of(step, len(chats)).cuda() for step in range(N_STEPS)]
    ids = [one.id for one in chats]
    sampler(ids, rows[0].clone())  # compiles what is compiled
    sampler.forget()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for logits in rows:
            sampler(ids, logits)
            for one in chats:
                one.tokens.append(11)
            chats[0].forced_token = 7
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", SETTINGS)
def test_choices_recorded_as_graphs_are_those_of_the_cpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for fewer rows than a graph has, and when another batch had the rows before."""
    if find_spec("triton") is None:
        pytest.skip("needs Triton")
    chats = chats_with(SETTINGS[kind])
    expected, _ = replies(SETTINGS[kind], "cpu", without_kernels=True)
    buffer = torch.zeros(8, VOCABULARY, device="cuda")
    sampler = sampler_of(chats, "cuda", without_kernels=False)
    stream = devices.priority_stream(buffer.device)
    assert sampler.record(buffer, stream) == ()
    sampler._chats = {str(row): chat(id=str(row), temperature=1.0, top_k=9) for row in range(8)}  # type: ignore[misc]
    with devices.on_stream(stream):
        sampler([*sampler._chats], buffer)
        sampler._chats = {one.id: one for one in chats}  # type: ignore[misc]
        monkeypatch.setattr(sampler._kernels, "_launch", lambda *_: pytest.fail("launched kernel by kernel"))
        for step in range(N_STEPS):
            buffer[: len(chats)].copy_(logits_of(step, len(chats)))
            tokens = sampler([one.id for one in chats], buffer[: len(chats)]).tolist()
            sampler.take_logprobs()
            for one, token in zip(chats, tokens, strict=True):
                one.tokens.append(token)
    assert [one.tokens for one in chats] == expected


@pytest.mark.parametrize("vocabulary", [40, 4096, 128_256, 151_936, 262_144])
def test_vocabularies_of_all_sizes_with_flat_and_with_peaked_logits(vocabulary: int) -> None:
    if find_spec("triton") is None:
        pytest.skip("needs Triton")
    chats = chats_with(SETTINGS["top_p"] + SETTINGS["top_k"] + SETTINGS["all kinds"])
    for one in chats:
        one.request = replace(one.request, n_logprobs=None)
    ids = [one.id for one in chats]
    noise = torch.randn(len(chats), vocabulary, generator=torch.Generator().manual_seed(0))
    for logits in (noise * 0.2, noise * 8):
        with_kernels = sampler_of(chats, "cuda", without_kernels=False)(ids, logits.cuda()).tolist()
        assert with_kernels == sampler_of(chats, "cuda", without_kernels=True)(ids, logits.cuda()).tolist()


def test_rows_that_are_not_numbers_get_no_token_and_others_theirs() -> None:
    chats = chats_with(SETTINGS["all kinds"])
    logits = logits_of(0, len(chats))
    expected = sampler_of(chats, "cpu", without_kernels=True)([one.id for one in chats], logits.clone()).tolist()
    logits[1, 5], logits[2, 6], logits[4] = torch.nan, torch.inf, -torch.inf
    tokens = sampler_of(chats, "cuda", without_kernels=False)([one.id for one in chats], logits.cuda()).tolist()
    assert tokens == [expected[0], -1, -1, expected[3], -1]


def test_a_choice_can_be_recorded_in_a_graph_and_played_again() -> None:
    """Of one step: the keys of the noise are those of that step."""
    chats = chats_with(SETTINGS["all kinds"])
    for one in chats:
        one.request = replace(one.request, n_logprobs=None, frequency_penalty=0.0)
    ids = [one.id for one in chats]
    first, second = logits_of(1, len(chats)), logits_of(2, len(chats))
    sampler = sampler_of(chats, "cuda", without_kernels=False)
    static = first.cuda()
    sampler(ids, static)
    for one in chats:
        one.tokens.append(1)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        tokens = sampler(ids, static)
    static.copy_(second)
    graph.replay()
    assert tokens.tolist() == sampler_of(chats, "cpu", without_kernels=True)(ids, second).tolist()
