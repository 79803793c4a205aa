"""Our own kernels choose the tokens that torch's operators choose: by Triton's interpreter, where there is Triton."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.chat.sampling.batch_sampler import BatchSampler
from pipelines.chat.sampling.torch_choice import TorchChoice
from pipelines.chat_interface import ChatRequest, Prompt
from tests.support.interpreted_kernels import interpreted_choice
from tests.support.sampled_chat import chat

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in rows with NaN
CPU = torch.device("cpu")
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.4, "min_p": 0.05},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 3.0, "top_p": 0.5},
    {"temperature": 0.8, "top_p": 1 - 1e-9},
    {"temperature": 5.0, "top_p": 1e-6},
    {"temperature": 2.0, "top_p": 0.95, "min_p": 0.2},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 4.0, "top_k": 20},
    {"temperature": 1.0, "top_k": 12, "top_p": 0.7},
    {"temperature": 9.0, "top_k": 25, "top_p": 0.15, "min_p": 0.01},
    {"temperature": 1.0, "top_k": 5000},
]


@pytest.fixture(scope="module")
def kernels() -> Iterator[Any]:
    with interpreted_choice(parts=4, block=64) as module:
        yield module


def requests(seed: int, settings: Sequence[dict[str, Any]] = SETTINGS) -> list[ChatRequest]:
    return [
        ChatRequest(id="", prompt=Prompt(tokens=(1,)), seed=seed + row, **each) for row, each in enumerate(settings)
    ]


def logits_of(seed: int, vocabulary: int, rows: int = len(SETTINGS)) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def both(kernels: Any, asked: Sequence[ChatRequest], steps: Sequence[Tensor]) -> tuple[list[list[int]], ...]:
    """The tokens of the kernels, and of torch's operators."""
    positions = [*range(len(asked))]
    ours = kernels.KernelChoice(CPU)
    ours.begin(asked, positions, steps[0].shape[-1])
    theirs = TorchChoice(asked, positions, steps[0])
    return [ours(each).tolist() for each in steps], [theirs(each).tolist() for each in steps]


@pytest.mark.parametrize("vocabulary", [3, 64, 1000])
def test_kernels_choose_as_torch_does_whatever_the_settings(kernels: Any, vocabulary: int) -> None:
    """The vocabularies are smaller than the programs are many, a multiple of a block, and neither."""
    steps = [logits_of(vocabulary + step, vocabulary) for step in range(3)]
    ours, theirs = both(kernels, requests(vocabulary), steps)
    assert ours == theirs


def test_rows_with_masks_and_with_what_is_no_number(kernels: Any) -> None:
    logits = logits_of(5, 300)
    logits[:, torch.randperm(300, generator=torch.Generator().manual_seed(1))[:270]] = -torch.inf
    for row, value in ((0, torch.nan), (3, torch.nan), (4, torch.inf), (10, torch.nan)):
        logits[row, 7] = value
    logits[9] = -torch.inf
    ours, theirs = both(kernels, requests(5), [logits])
    assert ours == theirs
    assert [row for row, token in enumerate(ours[0]) if token < 0] == [0, 3, 4, 9, 10]


def test_of_equally_likely_tokens_the_cuts_keep_those_with_small_numbers(kernels: Any) -> None:
    logits = logits_of(2, 200, rows=1).round().repeat(12, 1)  # many are equal, at each of the cuts
    order = logits[0].sort(descending=True, stable=True).indices.tolist()
    shares = logits[0].double().softmax(-1)[order]
    kept = int((shares.cumsum(0) - shares < 0.8).sum())
    for settings, n_kept in (({"top_k": 30}, 30), ({"top_p": 0.8}, kept)):
        asked = requests(3, [{"temperature": 1.0, **settings}] * 12)
        free = requests(3, [{"temperature": 1.0}] * 12)
        allowed = torch.full_like(logits, -torch.inf)
        allowed[:, order[:n_kept]] = logits[:, order[:n_kept]]
        assert both(kernels, asked, [logits])[0] == both(kernels, free, [allowed])[1]


def test_a_row_whose_tries_all_fail_gets_its_token_at_the_end(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.linspace(0.1, 0.0, 900)[torch.randperm(900, generator=torch.Generator().manual_seed(0))].repeat(8, 1)
    asked = requests(1, [{"temperature": 1.0, "top_p": 0.004}] * 4 + [{"temperature": 1.0, "top_p": 1e-6}] * 4)
    ours, theirs = both(kernels, asked, [logits])
    assert ours == theirs


def test_batches_take_turns_in_the_same_buffers(kernels: Any) -> None:
    """Rows of an earlier batch, and more rows than there was room for, leave nothing behind."""
    choice = kernels.KernelChoice(CPU)
    for n_rows in (3, 13, 2):
        asked, logits = requests(n_rows)[-n_rows:], logits_of(n_rows, 120, n_rows)
        choice.begin(asked, [7] * n_rows, 120)
        assert choice(logits).tolist() == TorchChoice(asked, [7] * n_rows, logits)(logits).tolist()


def test_a_sampler_with_kernels_goes_on_as_one_without(kernels: Any) -> None:
    """With penalties, masks of end tokens, forced tokens, and rows that become infinite by a bias but were numbers."""
    settings: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 1.0, "presence_penalty": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "logit_bias": ((7, float("inf")),), "min_tokens": 5},
        {"temperature": 2.0, "top_k": 9},
    ]
    replies = []
    for with_kernels in (True, False):
        chats = {str(row): chat(3, id=str(row), seed=row, **each) for row, each in enumerate(settings)}
        sampler = BatchSampler(chats, CPU)  # type: ignore[arg-type]
        if with_kernels:
            sampler._kernels = kernels.KernelChoice(CPU)
        for step in range(6):
            chats["3"].forced_token = 11 if step == 2 else None
            logits = logits_of(step, 90, len(chats))
            if step == 5:
                logits[0, 4] = torch.nan
            tokens = sampler([*chats], logits).tolist()
            for one, token in zip(chats.values(), tokens, strict=True):
                one.tokens.append(token)
        replies.append([one.tokens for one in chats.values()])
    assert replies[0] == replies[1]
    assert replies[0][0][-1] == -1
    assert replies[0][2][1:] == [7] * 6


def test_the_check_at_a_load_refuses_kernels_that_choose_otherwise(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "row_starts", lambda seeds, positions: [5] * len(seeds))
    with pytest.raises(ValueError, match="other tokens"):
        kernels.check(CPU)


def test_the_device_is_asked_for_two_launches_by_rows_that_are_not_cut(
    kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[str] = []

    def counted(name: str) -> Any:
        class Kernel:
            def __getitem__(self, grid: Any) -> Any:
                return lambda *arguments, **options: launched.append(name)

        return Kernel()

    for name in ("_survey", "_count_digit", "_try", "_finish"):
        monkeypatch.setattr(kernels.triton_kernels, name, counted(name))
    choice, counts = kernels.KernelChoice(CPU), []
    for settings in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}, {"temperature": 1.0, "top_k": 9}):
        choice.begin(requests(0, [settings]), [0], 50)
        launched.clear()
        choice(logits_of(0, 50, 1))
        counts.append(len(launched))
    assert counts == [2, 2, 7, 11]


def test_what_was_recorded_for_a_tensor_is_played_for_it_alone(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a graph of at least as many rows and of the kernels that the batch needs, until the buffers have grown."""
    played: list[int] = []

    class Pool:
        def __init__(self, stream: Any) -> None: ...

        def record(self, work: Any) -> Any:
            number = len(recorded)
            recorded.append(work)
            return lambda: (played.append(number), work())

    recorded: list[Any] = []
    monkeypatch.setattr(kernels, "GraphPool", Pool)
    choice, buffer = kernels.KernelChoice(CPU), logits_of(0, 50, 4)
    choice.record(buffer, None)
    order = [(4, 0), (2, 0), (1, 0), (4, 1), (2, 1), (1, 1), (4, 2), (2, 2), (1, 2)]  # rows, reach
    assert len(recorded) == len(order)
    for n_rows, asked, reach in ((1, {}, 0), (3, {"top_p": 0.5}, 1), (2, {"top_k": 4, "top_p": 0.9}, 2)):
        rows = requests(n_rows, [{"temperature": 1.0, **asked}] * n_rows)
        choice.begin(rows, [0] * n_rows, 50)
        played.clear()
        tokens = choice(buffer[:n_rows]).tolist()
        assert tokens == TorchChoice(rows, [0] * n_rows, buffer[:n_rows])(buffer[:n_rows]).tolist()
        assert [order[number] for number in played] == [(1 << (n_rows - 1).bit_length(), reach)]
        choice(buffer[:n_rows].clone())
        assert len(played) == 1
    choice.begin(requests(0, [{}] * 9), [0] * 9, 50)
    choice(buffer)
    assert len(played) == 1
