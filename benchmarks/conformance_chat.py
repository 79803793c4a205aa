"""Compares the greedy tokens of each language model in a chat lane with those of `generate`, alone and in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.conformance_rows import Row
from benchmarks.families.decoders import decoder
from pipelines.chat.lane import ChatLane
from pipelines.chat.proof import shares_forwards_correctly
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Failed, Replied
from tests.support.lanes.tiny_chat import tiny_tokenizer
from tests.support.prompts import asked

QUESTIONS = ("Hello there!", "What is the capital of France?", "a", "Count to ten, slowly, and then back to one again.")
N_TOKENS = 24


def compare(name: str) -> Row:
    try:
        model = decoder(name)
        shared = shares_forwards_correctly(model)
        tokenizer = tiny_tokenizer()
        expected = [generated(model, tokenizer, text) for text in QUESTIONS]
        chats = ChatLane(model, tokenizer, cache_bytes=8 << 20, merging="on" if shared else "off")
        alone, batched = _replies(chats, QUESTIONS[:1]), _replies(chats, QUESTIONS)
    except Exception as error:  # noqa: BLE001  # a failure is a row of the table
        return Row(name, "chat", False, False, f"{type(error).__name__}: {str(error)[:120]}")
    return Row(name, "chat", alone == expected[:1] and batched == expected, shared)


def _replies(lane: ChatLane, texts: Sequence[str]) -> list[str]:
    for i, text in enumerate(texts):
        lane.admit(ChatRequest(id=str(i), prompt=asked(lane.tokenizer, text), max_tokens=N_TOKENS))
    found: dict[str, str] = {}
    while lane.has_work():
        for update in lane.step():
            assert not isinstance(update, Failed), update
            if isinstance(update, Replied):
                found[update.request_id] = update.text
    return [found[str(i)] for i in range(len(texts))]


@torch.inference_mode()
def generated(model: Any, tokenizer: Any, text: str) -> str:
    prompt = torch.tensor([asked(tokenizer, text).tokens])
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=N_TOKENS, do_sample=False)
    return str(tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True))
