"""Decode steps as CUDA graphs on a real GPU: the same tokens as eager steps, and the memory that they say they hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines import device
from pipelines.batching.merging import difference
from pipelines.chat.decode import step_compiler
from pipelines.chat.decode.attention import attend_gathered, kernel_for
from pipelines.chat.decode.compiled import Forward, forward_of
from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat.lane import ChatLane
from pipelines.chat.proof import prove
from pipelines.cuda_graphs import CaptureFailed, GraphPool
from tests.support.lanes.chat_play import chat, replies
from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer
from tests.support.lanes.windowed_models import family_model
from tests.support.paged_attention import CASES, AttentionCase

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
CUDA = torch.device("cuda")


def small_model(dtype: torch.dtype = torch.float32) -> Any:
    """Like `tiny_model`, with heads that matrix units can take."""
    model = tiny_model(hidden_size=128, intermediate_size=256, num_hidden_layers=3, head_dim=32, initializer_range=0.2)
    return model.requires_grad_(False).to(CUDA, dtype)


def lane_of(model: Any, decode: DecodeOptions) -> ChatLane:
    return ChatLane(model, tiny_tokenizer(), cache_bytes=16 << 20, max_running=8, decode=decode)


def texts(lane: ChatLane) -> dict[str, str]:
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 0.7, "top_p": 0.9, "seed": 4},
    ]
    requests = [
        chat(f"c{i}", "tell me of " + "the sea " * i, max_tokens=20 + 15 * i, **settings[i % 3]) for i in range(5)
    ]
    return {name: end.text for name, end in replies(lane, requests).items()}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, torch.bfloat16) for case in CASES]
    + [(case, dtype) for case in (CASES[0], CASES[-2]) for dtype in (torch.float32, torch.float16)],
    ids=str,
)
def test_the_kernel_that_reads_pages_computes_what_the_one_in_plain_torch_computes(
    case: AttentionCase, dtype: torch.dtype
) -> None:
    if not device.has_triton(CUDA):
        pytest.skip("Triton is not installed")
    expected, expected_cache = case.run(attend_gathered, dtype, CUDA)
    mixed, cache = case.run(kernel_for(CUDA), dtype, CUDA)

    assert difference(expected, mixed) <= {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    assert torch.equal(cache, expected_cache), "both wrote the new keys and values, and nothing else"


def test_replies_of_graphs_equal_those_of_eager_and_of_transformers_steps() -> None:
    model = small_model()
    expected = texts(lane_of(model, DecodeOptions()))
    graphs = lane_of(model, DecodeOptions(static=True))

    assert texts(lane_of(model, DecodeOptions(static=True, graphs=False))) == expected
    assert texts(graphs) == expected
    assert not graphs.notes
    batch: Any = graphs._kv_cache.batch
    assert sorted(batch._decode._graphs) == [1, 2, 4, 8]


@pytest.mark.parametrize("family", ["gemma 2", "gemma 3", "gpt-oss", "mistral", "phi 3 with longrope"])
def test_graphs_of_models_whose_attention_is_special_give_the_replies_of_transformers_steps(family: str) -> None:
    model = family_model(family).to(CUDA)
    proof = prove(model, DecodeOptions(static=True))
    assert proof.decode.static, proof
    expected = texts(lane_of(model, DecodeOptions()))
    graphs = lane_of(model, proof.decode)

    assert texts(graphs) == expected
    assert family == "gpt-oss" or not graphs.notes, "not every implementation of experts can be recorded"


class Done:
    """In place of processes that compile: all is ready at once."""

    def __init__(self, tasks: Any) -> None:
        self._results = [""] * len(tasks)

    def results(self) -> list[str]:
        return self._results

    failures = results

    def stop(self) -> None:
        pass


def test_graphs_that_are_recorded_again_between_tokens_change_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def as_written(model: Any, rows: int) -> Forward:
        taken.append(rows)
        return forward_of(model)

    monkeypatch.setattr(step_compiler, "compiled_forward_of", as_written)
    model = small_model()
    expected = texts(lane_of(model, DecodeOptions(static=True)))
    lane = lane_of(model, DecodeOptions(static=True, compile=Done))
    batch: Any = lane._kv_cache.batch
    before = batch.cache_bytes

    assert texts(lane) == expected
    assert sorted(taken) == [1, 2, 4, 8]
    assert lane.notes[-1] == "Its decode steps run compiled, with 1, 2, 4, 8 chats at once."
    assert len(batch._decode._pools) == 1, "the first graphs are gone"
    assert abs(batch.cache_bytes - before) <= 16 << 20
    assert texts(lane) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_joined_products_compute_the_same_from_weights_that_are_held_once(dtype: torch.dtype) -> None:
    model = small_model(dtype)
    apart, together = (lane_of(model, DecodeOptions(static=True, joins=joins)) for joins in (False, True))
    logits = []
    for lane in (apart, together):
        batch: Any = lane._kv_cache.batch
        with torch.inference_mode():
            batch._decode._tokens.copy_(torch.arange(5, 5 + len(batch._decode._tokens)))
            batch._decode._run(4, 1, batch._decode._plain)
        logits.append(batch._decode._logits[:4].clone())

    assert difference(*logits) <= (1e-4 if dtype == torch.float32 else 3e-2)
    assert len({weight.untyped_storage().data_ptr() for weight in model.parameters()}) < len([*model.parameters()])


def test_the_proof_takes_graphs_in_half_precision() -> None:
    wanted = DecodeOptions(static=True)
    assert prove(small_model(torch.bfloat16), wanted).decode == wanted


def test_graphs_are_recorded_again_after_the_weights_were_away() -> None:
    lane = lane_of(small_model(), DecodeOptions(static=True))
    before = texts(lane)
    names = list(lane.components)
    lane.park(names)
    blocker = torch.full((4 << 20,), torch.nan, device=CUDA)  # where the weights were
    lane.unpark(names)

    assert texts(lane) == before
    assert len(blocker)


def test_a_lane_counts_its_graphs_and_gives_their_memory_back() -> None:
    device.release_cache()
    model = small_model()
    texts(lane_of(model, DecodeOptions()))  # libraries take their workspaces
    device.release_cache()
    held = device.held_by_us("cuda")
    lane = lane_of(model, DecodeOptions(static=True))
    device.release_cache()
    taken = device.held_by_us("cuda") - held

    assert abs(taken - lane.cache_bytes) <= 24 << 20, f"{taken}: the allocator rounds up to blocks of 2 and 20 MiB"
    lane.close()
    del lane
    device.release_cache()
    assert device.held_by_us("cuda") - held <= 24 << 20


def test_work_that_cannot_be_recorded_leaves_the_device_usable() -> None:
    stream = device.priority_stream(CUDA)
    assert stream is not None
    value = torch.ones(3, device=CUDA)
    with pytest.raises(CaptureFailed):
        GraphPool(stream).record(lambda: float(value.sum()))

    assert torch.ones(3, device=CUDA).sum().item() == 3
