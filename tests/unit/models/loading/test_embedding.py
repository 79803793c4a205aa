"""Loaded embedding models give the vectors that transformers gives, computed here by another way; damage is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, Gemma3TextConfig, Gemma3TextModel, T5Config, T5EncoderModel

from models.checkpoint.read_checkpoint import read_checkpoint
from models.errors import LoadFailed
from models.loading import embedding
from models.loading.load import load
from models.loading.text_reader import TextReader
from models.spec import ModelSpec
from pipelines.embedding_interface import EmbeddingRequest, TextOptions
from pipelines.interface import Embedded, Lane
from tests.support.lanes.tiny_encoders import (
    ARCHITECTURES,
    DECODERS,
    GROUPED,
    N_TOKENS,
    SMALL,
    save_checkpoint,
    save_sentence_model,
    tiny_model,
)

TEXTS = ["Hello world, how are you?", "a", "the quick brown fox 0123", "Yes: no!", "x y z " * 9]
MINILM = Path("~/.cache/agentname/models/all-minilm-l6-v2").expanduser()


def read(folder: Path) -> ModelSpec:
    return read_checkpoint(folder, name="m", source=str(folder), float_bytes=4)


def embedded(folder: Path, options: TextOptions = TextOptions()) -> np.ndarray[Any, Any]:  # noqa: B008  # immutable
    spec = read(folder)
    lane = load(spec, device="cpu", smoke_tested=set())
    assert lane.merging == "on"
    lane.admit(EmbeddingRequest(id="a", texts=TextReader().read(spec, TEXTS, options)))
    return played(lane)


def played(lane: Lane) -> np.ndarray[Any, Any]:
    while lane.has_work():
        for update in lane.step():
            assert isinstance(update, Embedded), update
            vectors = update.vectors
    return vectors


@torch.inference_mode()
def hidden_states(folder: Path, texts: list[str]) -> list[torch.Tensor]:
    """The states of each text's tokens, by the library, one text at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]


def unit(vectors: list[torch.Tensor]) -> np.ndarray[Any, Any]:
    return np.array([(vector / vector.norm()).numpy() for vector in vectors])


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_vectors_of_each_architecture_are_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    folder = save_sentence_model(tmp_path, model_type)
    states = hidden_states(folder, TEXTS)

    expected = unit([state[-1] if model_type in DECODERS else state.mean(0) for state in states])
    assert np.abs(embedded(folder) - expected).max() < 1e-5


def encoder_half_of_t5() -> Any:
    return T5EncoderModel(T5Config(vocab_size=N_TOKENS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)).eval()


def gemma_in_both_directions() -> Any:
    layers = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    settings = SMALL | GROUPED | layers | {"use_bidirectional_attention": True}
    return Gemma3TextModel(Gemma3TextConfig(**settings)).eval()


def qwen_in_both_directions() -> Any:
    """As gte-Qwen2, whose config says so."""
    return tiny_model("qwen3", is_causal=False)


def test_a_decoder_that_should_read_both_ways_and_does_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_sentence_model(tmp_path, model=qwen_in_both_directions())
    monkeypatch.setattr(embedding, "_reads_both_ways", lambda model: False)  # as with an older library

    with pytest.raises(LoadFailed, match="both directions"):
        load(read(folder), device="cpu")


@pytest.mark.parametrize("make", [encoder_half_of_t5, gemma_in_both_directions, qwen_in_both_directions])
def test_vectors_of_less_usual_networks_are_those_of_transformers(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    folder = save_sentence_model(tmp_path, model=model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        tokens = [tokenizer(text, return_tensors="pt")["input_ids"] for text in TEXTS]
        states = [model(input_ids=each).last_hidden_state[0] for each in tokens]

    assert np.abs(embedded(folder) - unit([state.mean(0) for state in states])).max() < 1e-5


def test_layers_after_the_pooling_and_prompts_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = torch.nn.Linear(64, 8)
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    folder = save_sentence_model(
        tmp_path, pooling=pooling, dense=dense, normalizes=False, prompts={"query": "q: "}, default_prompt_name="query"
    )
    states = hidden_states(folder, [f"q: {text}" for text in TEXTS])

    pooled = torch.stack([torch.cat([state[0], state.mean(0)]) for state in states])
    expected = torch.tanh(dense(pooled)).detach().numpy()
    assert np.abs(embedded(folder) - expected).max() < 1e-5


def test_a_checkpoint_with_a_language_models_head_is_read_without_it(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    headed = {f"bert.{name}": tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    save_file(headed | {"cls.predictions.bias": torch.zeros(5)}, folder / "model.safetensors", {"format": "pt"})

    expected = unit([state.mean(0) for state in hidden_states(folder, TEXTS)])
    assert np.abs(embedded(folder) - expected).max() < 1e-5


def test_the_bytes_that_a_spec_promises_are_those_of_the_lane(tmp_path: Path) -> None:
    spec = read(save_sentence_model(tmp_path, dense=torch.nn.Linear(32, 8)))
    lane = load(spec, device="cpu")

    assert abs(spec.weight_bytes - lane.weight_bytes) <= 4096, "the numbers of places, which are computed"


def damage(folder: Path, name: str, change: Any) -> None:
    tensors = load_file(folder / name)
    save_file(change(tensors), folder / name, {"format": "pt"})


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model.safetensors", lambda t: {k: v for k, v in t.items() if "layer.1" not in k}, "lacks"),
        ("model.safetensors", lambda t: {k: v * float("nan") for k, v in t.items()}, "no finite numbers"),
        ("model.safetensors", lambda t: t | {"embeddings.word_embeddings.weight": torch.zeros(9, 32)}, "by its config"),
        ("2_Dense/model.safetensors", lambda t: {"linear.weight": t["linear.weight"]}, "other tensors"),
        ("2_Dense/model.safetensors", lambda t: t | {"linear.bias": torch.zeros(9)}, "by its config"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, file: str, change: Any, words: str) -> None:
    folder = save_sentence_model(tmp_path, dense=torch.nn.Linear(32, 8))
    damage(folder, file, change)

    with pytest.raises(LoadFailed, match=words):
        load(read(folder), device="cpu", smoke_tested=set())


def test_a_model_that_is_not_on_the_cpu_in_full_precision_is_close(tmp_path: Path) -> None:
    folder = save_sentence_model(tmp_path, model=tiny_model(initializer_range=0.05))
    in_full = embedded(folder)
    spec = read_checkpoint(folder, name="m", source="m", float_bytes=2)
    lane = load(ModelSpec(**{f: getattr(spec, f) for f in spec.__slots__} | {"dtype": "bfloat16"}), device="cpu")
    lane.admit(EmbeddingRequest(id="a", texts=TextReader().read(spec, TEXTS, TextOptions())))

    similarity = (in_full * played(lane)).sum(axis=1)
    assert similarity.min() > 0.99


@pytest.mark.slow
@pytest.mark.skipif(not MINILM.is_dir(), reason="the built-in model is not fetched: make models")
def test_the_built_in_model_finds_the_sentence_that_means_the_same() -> None:
    spec = read(MINILM)
    texts = [
        "How do I boil an egg?", "Put an egg into hot water for eight minutes.", "The stock market fell today.",
        "Paris is the capital of France.", "Which city is the capital of France?",
    ]  # fmt: skip
    lane = load(spec, device="cpu")
    lane.admit(EmbeddingRequest(id="a", texts=TextReader().read(spec, texts, TextOptions())))
    vectors = played(lane)
    alike = vectors @ vectors.T - 2 * np.eye(len(texts))

    assert (spec.embedding and spec.embedding.dimensions, spec.limits.context_tokens) == (384, 256)
    assert [int(row.argmax()) for row in alike][:2] == [1, 0]
    assert [int(row.argmax()) for row in alike][3:] == [4, 3]
    states = hidden_states(MINILM, texts)
    assert np.abs(vectors - unit([state.mean(0) for state in states])).max() < 1e-5
