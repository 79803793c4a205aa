"""The choice of tokens for a whole batch equals the one that was made row by row, whatever the chats ask for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.chat import sampling
from pipelines.chat.sampling import batch_sampler, draw, penalties
from pipelines.chat.sampling.batch_sampler import BatchSampler
from pipelines.chat.sampling.torch_choice import KEY_STEPS
from tests.support import row_sampling
from tests.support.sampled_chat import SampledChat, chat

VOCABULARY = 40
CPU = torch.device("cpu")


class Batch:
    """Chats and their sampler. Every step is compared with the choice row by row."""

    def __init__(self, *chats: SampledChat) -> None:
        self.chats = {str(index): one for index, one in enumerate(chats)}
        for index, one in self.chats.items():
            one.request = replace(one.request, id=index)
        self.sampler = BatchSampler(self.chats, CPU)  # type: ignore[arg-type]

    def step(self, logits: Tensor, ids: Sequence[str] | None = None) -> list[int]:
        ids = [*self.chats] if ids is None else ids
        chats = [self.chats[each] for each in ids]
        for one in chats:
            one.last_logprobs = None
        expected = row_sampling.choose_tokens(chats, logits.clone()).tolist()
        tokens = self.sampler(ids, logits.clone()).tolist()
        assert tokens == expected
        told = self.sampler.take_logprobs()
        for one, token in zip(chats, tokens, strict=True):
            if token >= 0 and one.last_logprobs is not None:
                assert told[one.id][0] == pytest.approx(one.last_logprobs[0], abs=1e-5)
                assert told[one.id][1] == one.last_logprobs[1]
            else:
                assert token < 0 or one.id not in told
            one.tokens.append(token)
        return tokens


TOKENS = st.integers(0, VOCABULARY - 1)
CHATS = st.builds(
    chat,
    *[TOKENS] * 3,
    forced_token=st.none() | st.none() | st.none() | TOKENS,
    temperature=st.sampled_from([0.0, 0.25, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 7, 39, 40, 100]),
    top_p=st.sampled_from([1e-6, 0.15, 0.5, 0.85, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.07, 0.6, 1.0]),
    seed=st.integers(-1, 2**64),
    min_tokens=st.sampled_from([0, 3, 4, 6]),
    repetition_penalty=st.sampled_from([1.0, 1.5, 0.8]),
    presence_penalty=st.sampled_from([0.0, 1.25, -0.3]),
    frequency_penalty=st.sampled_from([0.0, -0.75, 0.1]),
    logit_bias=st.lists(
        st.tuples(st.integers(-1, VOCABULARY), st.sampled_from([-100.0, 3.5, 100.0])),
        max_size=3,
        unique_by=lambda pair: pair[0],
    ).map(tuple),
    n_logprobs=st.sampled_from([None, None, 0, 5, 41]),
)
ROWS = st.one_of(
    st.integers(0, 1_000).map(lambda seed: normal(seed)),
    st.integers(0, 1_000).map(lambda seed: normal(seed).bfloat16().float()),
    st.integers(0, 1_000).map(lambda seed: (normal(seed)).round()),  # many ties
    st.just(torch.zeros(VOCABULARY)),
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32) | st.just(float("-inf")), min_size=VOCABULARY, max_size=VOCABULARY
    ).map(torch.tensor),
    st.sampled_from([float("nan"), float("inf"), float("-inf")]).map(
        lambda value: normal(1).index_fill(0, torch.tensor([3]), value)
    ),
)


def normal(seed: int, n: int = VOCABULARY, scale: float = 3.0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=30)
@given(st.lists(CHATS, min_size=1, max_size=5), st.data())
def test_every_step_gives_the_tokens_of_the_choice_row_by_row(chats: list[SampledChat], data: st.DataObject) -> None:
    batch = Batch(*chats)
    ids = [*batch.chats]
    for _ in range(4):
        tokens = batch.step(torch.stack([data.draw(ROWS) for _ in ids]), ids)
        for each, token in zip(tuple(ids), tokens, strict=True):
            batch.chats[each].forced_token = data.draw(st.none() | st.none() | TOKENS)
            if token < 0:
                ids.remove(each)
        if not ids:
            return
        if data.draw(st.booleans()):  # others leave, join or change their places
            ids = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))


WIDE = 3 * draw.N_CANDIDATES


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(
        st.builds(
            chat,
            temperature=st.sampled_from([0.3, 1.0, 3.0, 50.0]),
            top_k=st.sampled_from([0, 0, 0, 5, 1024, 1025, 2000, WIDE, 2 * WIDE]),
            top_p=st.sampled_from([0.3, 0.8, 0.99, 1.0]),
            min_p=st.sampled_from([0.0, 0.0, 0.02, 0.9]),
            seed=st.integers(0, 2**63),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 1_000),
    st.booleans(),
)
def test_a_vocabulary_larger_than_the_candidates_is_cut_as_row_by_row(
    chats: list[SampledChat], seed: int, has_ties: bool
) -> None:
    batch = Batch(*chats)
    for step in range(2):
        logits = torch.stack([normal(seed + 7 * step + row, WIDE) for row in range(len(chats))])
        batch.step(logits.bfloat16().float() if has_ties else logits)


def test_a_long_reply_goes_on_behind_the_keys_that_are_computed_at_once() -> None:
    batch = Batch(chat(temperature=1.0, seed=5), chat(temperature=1.0, top_p=0.9, frequency_penalty=0.5))
    for step in range(KEY_STEPS + 3):
        batch.step(torch.stack([normal(step), normal(-step)]))
    assert len(set(batch.chats["0"].tokens)) > 10


def test_a_token_that_was_chosen_but_not_taken_is_chosen_again() -> None:
    """As when the step fails behind the choice: the chat is read in again, and goes on as if nothing had happened."""
    batch = Batch(chat(temperature=1.0, seed=5, frequency_penalty=2.0, repetition_penalty=1.2))
    for step in range(3):
        batch.step(normal(step)[None])
    before = batch.sampler(["0"], normal(9)[None]).tolist()
    assert batch.sampler(["0"], normal(9)[None]).tolist() == before
    assert batch.step(normal(9)[None]) == before


def test_a_chat_that_stays_keeps_its_history_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    history_of = penalties.history_of
    monkeypatch.setattr(penalties, "history_of", lambda chat, *rest: made.append(chat.id) or history_of(chat, *rest))
    batch = Batch(*(chat(7, frequency_penalty=0.5) for _ in range(3)))
    for step, ids in enumerate((["0", "1"], ["1", "0"], ["0", "2"], ["0", "2"], ["2"])):
        batch.step(torch.stack([normal(10 * step + row) for row in range(len(ids))]), ids)
    assert made == ["0", "1", "2"]


def test_a_batch_of_greedy_chats_keeps_its_logits_and_nothing_on_the_device() -> None:
    logits = torch.stack([normal(1), normal(2)])
    before = logits.clone()
    chats = {"a": chat(id="a"), "b": chat(id="b", top_p=0.5)}
    sampler = BatchSampler(chats, CPU)  # type: ignore[arg-type]
    assert sampler(["a", "b"], logits).tolist() == before.argmax(-1).tolist()
    assert torch.equal(logits, before)
    assert sampler.take_logprobs() == {}


class Operators(TorchDispatchMode):
    """Counts the operators that a GPU would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        self.count += not is_view
        return func(*args, **(kwargs or {}))


class FirstToken:
    """In place of our own kernels, which are launched without torch."""

    n_steps = 1_000

    def begin(self, *rows: Any, is_judged: bool) -> None: ...

    def judge(self, logits: Tensor) -> None: ...

    def __call__(self, logits: Tensor) -> Tensor:
        return torch.zeros(len(logits), dtype=torch.long)


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({"temperature": 1.0, "top_p": 0.9, "top_k": 5, "min_p": 0.1}, 0),
        ({"logit_bias": ((3, 1.0),)}, 1),
        ({"min_tokens": 9}, 1),
        ({"repetition_penalty": 1.1}, 11),
        ({"presence_penalty": 0.5, "frequency_penalty": 0.2}, 13),
        ({"repetition_penalty": 1.1, "frequency_penalty": 0.2}, 17),
        ({"n_logprobs": 0}, 3),
        ({"n_logprobs": 5}, 22),
    ],
)
def test_a_step_with_our_own_kernels_launches_few_operators_of_torch(asked: dict[str, Any], most: int) -> None:
    chats = {name: chat(1, 2, id=name, **asked) for name in "ab"}
    sampler = BatchSampler(chats, CPU)  # type: ignore[arg-type]
    sampler._kernels = FirstToken()
    for _ in range(3):
        logits = torch.stack([normal(1), normal(2)])
        with Operators() as launched:
            sampler([*chats], logits)
        for one in chats.values():
            one.tokens.append(0)
    assert launched.count - 1 <= most  # one is of `FirstToken`


def kernels_that(monkeypatch: pytest.MonkeyPatch, check: Callable[[torch.device], None]) -> None:
    monkeypatch.setattr(batch_sampler.devices, "has_triton", lambda device: True)
    monkeypatch.setitem(
        sys.modules,
        "pipelines.chat.sampling.kernel_choice",
        SimpleNamespace(check=check, KernelChoice=lambda device: None),
    )
    monkeypatch.setattr(sampling, "kernel_choice", sys.modules["pipelines.chat.sampling.kernel_choice"], raising=False)


def test_kernels_that_cannot_be_used_are_done_without_and_the_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler.")

    kernels_that(monkeypatch, no_compiler)
    assert BatchSampler({}, torch.device("cuda")).notes == ("Tokens are chosen without kernels of our own: slower.",)
    kernels_that(monkeypatch, lambda device: None)
    assert BatchSampler({}, torch.device("cuda")).notes == ()


def test_a_device_that_is_lost_while_kernels_are_checked_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    kernels_that(monkeypatch, lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        BatchSampler({}, torch.device("cuda"))


def test_log_probabilities_are_told_once() -> None:
    batch = Batch(chat(n_logprobs=2))
    batch.sampler(["0"], normal(1)[None])
    assert len(batch.sampler.take_logprobs()["0"][1]) == 2
    assert batch.sampler.take_logprobs() == {}
