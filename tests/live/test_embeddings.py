"""Embeddings of several clients on the real server, beside chats: equal to the library's, counted, canceled."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.http.live_server import LiveServer
from tests.support.lanes.fixed_reply import save_fixed_reply
from tests.support.lanes.tiny_encoders import save_sentence_model

pytestmark = [pytest.mark.live, pytest.mark.slow]

TEXTS = [f"the {word} of text {number}" for number in range(8) for word in ("beginning", "end")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings") / "data" / "models"
    for model_type in ("bert", "qwen3"):
        save_sentence_model(folder / model_type, model_type, prompts={"query": "q: "})
    save_fixed_reply(folder / "talker", chat_tokenizer("chatml"), [*"bdefgkmpq"])
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[LiveServer]:
    live = LiveServer(models.parent).start().wait_read()
    yield live
    assert live.stop() == 0


@torch.inference_mode()
def by_transformers(folder: Path, texts: list[str], *, last: bool) -> np.ndarray[Any, Any]:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]
    vectors = torch.stack([state[-1] if last else state.mean(dim=0) for state in states])
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


@pytest.mark.parametrize(("model", "last"), [("bert", False), ("qwen3", True)])
def test_clients_that_embed_at_once_beside_a_chat_get_the_librarys_vectors(
    ai: openai.OpenAI, server: LiveServer, models: Path, model: str, last: bool
) -> None:
    expected = by_transformers(models / model, TEXTS, last=last)

    def embed(part: int) -> np.ndarray[Any, Any]:
        data = ai.embeddings.create(model=model, input=TEXTS[part::4]).data
        return np.array([entry.embedding for entry in data])

    with ThreadPoolExecutor(5) as clients:
        chat = clients.submit(server.chat, "Hi", model="talker", max_tokens=30)
        found = list(clients.map(embed, range(4)))

    for part, vectors in enumerate(found):
        assert np.abs(vectors - expected[part::4]).max() < 1e-5
    assert chat.result()


def test_prompts_dimensions_and_long_texts(ai: openai.OpenAI, server: LiveServer, models: Path) -> None:
    def embed(**options: Any) -> np.ndarray[Any, Any]:
        return np.array(ai.embeddings.create(model="bert", **options).data[0].embedding)

    (expected,) = by_transformers(models / "bert", ["q: sea"], last=False)
    asked = embed(input="sea", extra_body={"input_type": "query"})
    assert np.abs(asked - expected).max() < 1e-5
    short = embed(input="q: sea", dimensions=8)
    assert np.abs(short - expected[:8] / np.linalg.norm(expected[:8])).max() < 1e-5
    with pytest.raises(openai.BadRequestError, match="the model reads at most 64"):
        embed(input="a b " * 100)
    assert len(embed(input="a b " * 100, extra_body={"truncate": True})) == 32
    (listed,) = [model for model in server.get("/api/models").json["models"] if model["name"] == "bert"]
    assert (listed["type"], listed["merging"], listed["embedding"]["dimensions"]) == ("embedding", "on", 32)


def test_a_client_that_disconnects_leaves_nothing_running(server: LiveServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    body = json.dumps({"model": "bert", "input": ["a b c d e f g h " * 3] * 2048})
    connection.request("POST", "/v1/embeddings", body, headers)
    connection.close()

    server.wait_until("/api/queue", lambda queue: not queue["running"] and not queue["waiting"])
    assert server.post("/v1/embeddings", {"model": "bert", "input": "a"}).status == 200
    metrics = server.get("/metrics").body.decode()
    assert 'agentname_tokens_total{kind="embedding"}' in metrics
