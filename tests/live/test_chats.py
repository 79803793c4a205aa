"""Chats with models of odd tokenizers, templates and ends, against the real server: what apps get of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import AddedToken

from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.http.live_server import LiveServer
from tests.support.lanes.fixed_reply import save_fixed_reply

pytestmark = [pytest.mark.live, pytest.mark.slow]

HI = [{"role": "user", "content": "Hi"}]
# Model → family of its tokenizer and template, words that its tokenizer has as tokens, and the tokens of its reply.
THOUGHT = ["They", " greet me.", "\n \n", "</think>", "\n\n", "Hello", " there!", "<|end|>"]
REPLIES: dict[str, tuple[str, list[str]]] = {
    "thinker": ("r1", THOUGHT),
    "speller": ("gemma", ["h", "<0xC3>", "<0xA9>", "<0xE4>", "<0xB8>", "<0xAD>", "!", "<end_of_turn>"]),
    "fine-tune": ("chatml", ["Hello", " there!", "<|im_end|>", "user", "Who are you?", "<|endoftext|>"]),
}
TEXTS = {"thinker": "Hello there!", "speller": "hé中!", "fine-tune": "Hello there!"}


def save_models(folder: Path) -> None:
    for name, (family, reply) in REPLIES.items():
        tokenizer = chat_tokenizer(family)
        known = tokenizer.get_vocab()
        words = [AddedToken(text, special=False, normalized=False) for text in reply if text not in known]
        tokenizer.add_tokens(words)
        if family == "chatml":
            tokenizer.eos_token = "<|endoftext|>"  # its config names another end than its turns have
        save_fixed_reply(folder / name, tokenizer, reply)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("chats")
    save_models(folder / "data" / "models")
    live = LiveServer(folder / "data").start().wait_read()
    yield live
    assert live.stop() == 0


def said(ai: openai.OpenAI, model: str, **fields: Any) -> tuple[str, str, str]:
    """Content, thinking and finish reason of a reply, which must be the same streamed and not."""
    request: Any = {"model": model, "messages": HI, "temperature": 0, "max_tokens": 40, **fields}
    choice = ai.chat.completions.create(**request).choices[0]
    pieces = [chunk.choices[0] for chunk in ai.chat.completions.create(**request, stream=True) if chunk.choices]
    streamed = (
        "".join(piece.delta.content or "" for piece in pieces),
        "".join(getattr(piece.delta, "reasoning_content", None) or "" for piece in pieces),
        str(next(piece.finish_reason for piece in pieces if piece.finish_reason)),
    )
    whole = (
        str(choice.message.content),
        str(getattr(choice.message, "reasoning_content", None) or ""),
        str(choice.finish_reason),
    )
    assert streamed == whole
    return whole


@pytest.mark.parametrize("model", REPLIES)
def test_each_model_says_its_text_and_ends_by_itself(ai: openai.OpenAI, model: str) -> None:
    text, _, finish = said(ai, model)

    assert (text, finish) == (TEXTS[model], "stop")


def test_thinking_is_told_apart_and_counted(ai: openai.OpenAI) -> None:
    text, thinking, _ = said(ai, "thinker")
    usage = ai.chat.completions.create(model="thinker", messages=HI, temperature=0).usage  # type: ignore[arg-type]

    assert (text, thinking) == ("Hello there!", "They greet me.")
    assert usage is not None
    assert usage.completion_tokens == len(THOUGHT)
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 4  # with the white space and the tag behind it


def test_a_reply_cut_anywhere_is_a_beginning_of_the_whole(ai: openai.OpenAI) -> None:
    for n_tokens in range(1, 8):
        text, _, finish = said(ai, "speller", max_tokens=n_tokens)
        assert TEXTS["speller"].startswith(text)
        assert finish == "length"


def test_a_system_prompt_reaches_a_template_that_refuses_the_role(server: LiveServer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HI, {"role": "user", "content": "And?"}]
    reply = server.request("POST", "/v1/chat/completions", {"model": "speller", "messages": messages})

    assert reply.status == 200
    assert reply.json["choices"][0]["message"]["content"] == TEXTS["speller"]
    assert len(reply.json["warnings"]) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_messages_beyond_the_context_are_refused_before_a_stream_begins(server: LiveServer, stream: bool) -> None:
    body = {"model": "thinker", "messages": [{"role": "user", "content": "word " * 900}], "stream": stream}
    reply = server.request("POST", "/v1/chat/completions", body)

    assert reply.status == 400
    assert reply.json["error"]["code"] == "context_length_exceeded"


def test_the_native_chat_tells_thinking_apart_too(server: LiveServer) -> None:
    whole = server.post("/api/chat", {"message": "Hi", "model": "thinker"}).json
    stream = server.post("/api/chat", {"message": "Hi", "model": "thinker", "stream": True}).body.decode()
    events = [block.partition("\ndata: ")[::2] for block in stream.strip().split("\n\n")]
    texts = {
        name: "".join(json.loads(data)["text"] for of, data in events if of == f"event: {name}")
        for name in ("thinking", "delta")
    }

    assert (whole["reply"], whole["thinking"]) == ("Hello there!", "They greet me.")
    assert texts == {"thinking": whole["thinking"], "delta": whole["reply"]}
