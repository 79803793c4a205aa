"""Anthropic's and Ollama's APIs against the real server and its models: what a client sees after changing its URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.http.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.slow]

MODEL = "smollm2-135m"
QUESTION = [{"role": "user", "content": "What is the sea?"}]
MESSAGE: dict[str, Any] = {"model": MODEL, "max_tokens": 24, "temperature": 0, "messages": QUESTION}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("dialects") / "data").start()
    yield live
    assert live.stop() == 0


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    headers = {"x-api-key": server.key, "anthropic-version": "2023-06-01"}
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers, timeout=120) as client:
        yield client


def posted(http: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    reply = http.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply


def test_a_message_is_the_same_streamed_and_not_and_its_tokens_are_counted(http: httpx.Client) -> None:
    whole = posted(http, "/v1/messages", MESSAGE).json()
    blocks = posted(http, "/v1/messages", MESSAGE | {"stream": True}).text.strip().split("\n\n")
    events = [json.loads(block.partition("data: ")[2]) for block in blocks]
    counted = posted(http, "/v1/messages/count_tokens", MESSAGE).json()["input_tokens"]
    texts = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]

    assert "".join(texts) == whole["content"][0]["text"]
    assert len(texts) > 8  # streamed as it was generated, not in one piece
    assert counted == whole["usage"]["input_tokens"] == events[0]["message"]["usage"]["input_tokens"]
    assert (whole["stop_reason"], whole["usage"]["output_tokens"]) == ("max_tokens", 24)


def test_the_stop_sequence_that_ended_a_message_is_named(http: httpx.Client) -> None:
    text = posted(http, "/v1/messages", MESSAGE).json()["content"][0]["text"]
    stop = text[10:14]
    stopped = posted(http, "/v1/messages", MESSAGE | {"stop_sequences": ["no such", stop]}).json()

    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", stop)
    assert stopped["content"][0]["text"] == text[: text.index(stop)]


def test_a_required_call_has_an_input_that_keeps_to_its_schema(http: httpx.Client) -> None:
    choice = {"type": "any", "disable_parallel_tool_use": True}
    tools = {"tools": [{"name": "weather", "input_schema": SCHEMA}], "tool_choice": choice, "max_tokens": 100}
    reply = posted(http, "/v1/messages", MESSAGE | tools).json()

    assert reply["stop_reason"] == "tool_use"
    assert [(block["name"], block["input"].keys()) for block in reply["content"]] == [("weather", {"city"})]


def test_a_chat_of_ollama_is_that_message_with_measured_times(http: httpx.Client, server: LiveServer) -> None:
    message = posted(http, "/v1/messages", MESSAGE).json()
    options = {"temperature": 0, "num_predict": 24}
    lines = posted(http, "/api/chat", {"model": f"{MODEL}:latest", "messages": QUESTION, "options": options}).text
    *parts, last = map(json.loads, lines.splitlines())

    assert "".join(part["message"]["content"] for part in parts) == message["content"][0]["text"]
    assert (last["done_reason"], last["eval_count"]) == ("length", 24)
    assert last["prompt_eval_count"] == message["usage"]["input_tokens"]
    assert last["eval_duration"] > 0
    assert last["total_duration"] > last["prompt_eval_duration"] + last["eval_duration"]


def test_a_text_of_ollama_keeps_to_its_format_and_unloads_its_model(http: httpx.Client, server: LiveServer) -> None:
    body = {"model": MODEL, "prompt": "Name a city.", "format": SCHEMA, "stream": False, "options": {"num_predict": 60}}
    text = posted(http, "/api/generate", body).json()["response"]
    running = http.get("/api/ps").json()["models"]
    unloaded = posted(http, "/api/generate", {"model": MODEL, "keep_alive": 0}).json()

    assert json.loads(text).keys() == {"city"}
    assert [model["name"] for model in running] == [f"{MODEL}:latest"]
    assert unloaded["done_reason"] == "unload"


def test_embeddings_of_ollama_are_those_of_openai(http: httpx.Client) -> None:
    models = http.get("/api/tags").json()["models"]
    shown = {model["name"]: posted(http, "/api/show", {"model": model["name"]}).json() for model in models}
    embedder = next(name for name, model in shown.items() if model["capabilities"] == ["embedding"])
    ours = posted(http, "/v1/embeddings", {"model": embedder, "input": ["the sea"]}).json()["data"][0]["embedding"]
    theirs = posted(http, "/api/embed", {"model": embedder, "input": "the sea"}).json()["embeddings"][0]

    assert theirs == pytest.approx(ours, abs=1e-6)
