"""The lane of embedding models, beyond the contract of all lanes: equal vectors, memory, options of requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.embedding.encoder import Encoder
from pipelines.embedding.lane import UNBATCHED_WARNING, EmbeddingLane
from pipelines.embedding.proof import prove
from pipelines.embedding_interface import EmbeddingRequest, TextTokens
from pipelines.interface import Embedded, Failed, OutOfMemory, StepCost, Update
from tests.support.lanes.tiny_encoders import ARCHITECTURES, DECODERS, tiny_encoder, tiny_lane

LENGTHS = (3, 4, 5, 29, 30, 31, 60, 90)


def text(n_tokens: int) -> TextTokens:
    return TextTokens((1, *(5 + (7 * i + n_tokens) % 70 for i in range(n_tokens - 2)), 2))


def request(name: str = "a", *, lengths: tuple[int, ...] = LENGTHS, **options: Any) -> EmbeddingRequest:
    return EmbeddingRequest(id=name, texts=tuple(map(text, lengths)), **options)


def play(lane: EmbeddingLane, *requests: EmbeddingRequest) -> dict[str, Update]:
    for each in requests:
        lane.admit(each)
    updates: list[Update] = []
    while lane.has_work():
        updates += lane.step()
    return {update.request_id: update for update in updates}


def vectors(update: Update) -> np.ndarray[Any, Any]:
    assert isinstance(update, Embedded), update
    return update.vectors


def alone(encoder: Encoder, tokens: TextTokens) -> np.ndarray[Any, Any]:
    """The vector by the model itself, one text without padding, pooled here."""
    hidden = encoder.model(input_ids=torch.tensor([tokens.tokens])).last_hidden_state[0]
    vector = hidden[-1] if encoder.pooling == ("lasttoken",) else hidden.mean(dim=0)
    return nn.functional.normalize(vector, dim=0).numpy()


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_texts_in_shared_forwards_get_the_vectors_that_the_model_gives_them_alone(model_type: str) -> None:
    encoder = tiny_encoder(model_type)
    assert prove(encoder) == "on"
    found = vectors(play(tiny_lane(encoder), request())["a"])

    expected = [alone(encoder, text(n)) for n in LENGTHS]
    assert np.abs(found - np.array(expected)).max() < 1e-5
    assert (found.dtype, found.shape) == (np.float32, (len(LENGTHS), 32))
    assert model_type in DECODERS or encoder.pooling == ("mean",)


def test_a_model_that_reads_its_padding_runs_one_text_at_a_time() -> None:
    class Reads(nn.Module):
        """Adds the mean over all places of a batch, as a badly made layer would."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config
            self.dtype, self.device = inner.dtype, inner.device
            self.get_input_embeddings = inner.get_input_embeddings

        def forward(self, **inputs: Any) -> Any:
            output = self.inner(**inputs)
            output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean((0, 1))
            return output

    encoder = Encoder(Reads(tiny_encoder().model), pooling=("mean",))
    merging = prove(encoder)
    lane = tiny_lane(encoder, merging=merging)
    play(lane, request())

    assert (merging, lane.warnings) == ("off", (UNBATCHED_WARNING,))
    assert {note.rows for note in lane.take_costs() if isinstance(note, StepCost)} == {1}


def test_a_request_chooses_dimensions_and_length() -> None:
    encoder = tiny_encoder(normalizes=False)
    ends = play(
        tiny_lane(encoder),
        request("raw"),
        request("unit", normalize=True),
        request("short", dimensions=8),
        request("short unit", dimensions=8, normalize=True),
    )
    raw = vectors(ends["raw"])

    assert np.allclose(vectors(ends["unit"]), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    assert np.allclose(vectors(ends["short"]), raw[:, :8], atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors(ends["short unit"]), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (EmbeddingRequest(id="x", texts=()), "bad_request"),
        (EmbeddingRequest(id="x", texts=(TextTokens(()),)), "bad_request"),
        (EmbeddingRequest(id="x", texts=(TextTokens((-1,)),)), "bad_request"),
        (request("x", lengths=(127,)), "context_overflow"),
        (request("x", dimensions=33), "bad_request"),
    ],
)
def test_what_the_model_cannot_read_fails_without_a_forward(bad: EmbeddingRequest, code: str) -> None:
    lane = tiny_lane()
    end = play(lane, bad)["x"]

    assert isinstance(end, Failed)
    assert end.code == code
    assert list(lane.take_costs()) == []


def test_a_forward_that_does_not_fit_is_run_in_halves() -> None:
    encoder, lane = tiny_encoder(), tiny_lane(tiny_encoder())
    expected = vectors(play(lane, request("a", lengths=(30,) * 8))["a"])
    lane = tiny_lane(encoder)
    run_out_above(encoder, rows=2)
    end = play(lane, request("a", lengths=(30,) * 8))["a"]

    assert np.allclose(vectors(end), expected, atol=1e-6)
    notes = lane.take_costs()
    assert [note.rows for note in notes if isinstance(note, OutOfMemory)] == [8, 4]
    assert [note.rows for note in notes if isinstance(note, StepCost)] == [2, 2, 2, 2]


def test_a_text_that_does_not_fit_alone_fails_and_the_others_go_on() -> None:
    encoder = tiny_encoder()
    lane = tiny_lane(encoder)
    run_out_above(encoder, rows=0, width=64)
    ends = play(lane, request("long", lengths=(100, 5)), request("short", lengths=(6,)))

    long = ends["long"]
    assert isinstance(long, Failed)
    assert long.code == "out_of_memory"
    assert vectors(ends["short"]).shape == (1, 32)


def run_out_above(encoder: Encoder, rows: int, width: int = 0) -> None:
    """Makes forwards of more rows, that are wider than `width`, run out of memory."""

    def check(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[0] > rows and args[0].shape[1] > width:
            raise torch.OutOfMemoryError

    encoder.register_forward_pre_hook(check)


def test_values_that_are_not_numbers_fail_their_request_alone() -> None:
    encoder = tiny_encoder()
    encoder.model.embeddings.word_embeddings.weight[80] = float("nan")
    ends = play(
        tiny_lane(encoder),
        EmbeddingRequest(id="bad", texts=(TextTokens((1, 80, 2)), text(5))),
        request("good", lengths=(3, 5)),
    )

    bad = ends["bad"]
    assert isinstance(bad, Failed)
    assert bad.code == "invalid_output"
    assert np.isfinite(vectors(ends["good"])).all()


def test_prompts_may_be_left_out_of_the_pooling() -> None:
    encoder = tiny_encoder(pools_prompt=False)
    tokens = text(10)
    found = vectors(
        play(tiny_lane(encoder), EmbeddingRequest(id="a", texts=(TextTokens(tokens.tokens, 4), text(20))))["a"]
    )
    hidden = encoder.model(input_ids=torch.tensor([tokens.tokens])).last_hidden_state[0]

    expected = nn.functional.normalize(hidden[4:].mean(dim=0), dim=0).numpy()
    assert np.abs(found[0] - expected).max() < 1e-5
