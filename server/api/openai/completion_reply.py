"""The JSON of a completion, whole and in chunks, in the format that OpenAI's completions have. Pure functions.

An echoed prompt is the first part of a choice: its text and its log probabilities precede those of the reply.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pipelines.chat_interface import Prompt, TokenLogprobs
from server.api.openai.completion_schema import CompletionCall
from server.api.openai.reply_parts import json_logprob, token_name, usage, warnings
from server.api.openai.token_places import TokenPlaces
from server.api.wire import JsonObject
from server.http.sse import data
from server.service.chat_input import ChatChoice, ChatDelta, ChatReply


def completion(head: JsonObject, reply: ChatReply, prompts: Sequence[Prompt], call: CompletionCall) -> JsonObject:
    """head: id, time of creation and model. prompts: as they were read."""
    choices = [
        _choice(index, choice, _prompt_of(index, prompts, call), call) for index, choice in enumerate(reply.choices)
    ]
    return {**head, "object": "text_completion", "choices": choices, "usage": usage(reply), **warnings(reply)}


def _choice(index: int, choice: ChatChoice, prompt: Prompt, call: CompletionCall) -> JsonObject:
    text, logprobs = "", []
    if call.echo:
        text = prompt.text
        logprobs = _echoed(prompt, choice.prompt_logprobs)
    places = TokenPlaces(len(text)).of(choice.text, choice.logprobs)
    logprobs += zip(choice.logprobs, places, strict=True)
    made = {
        "index": index,
        "text": text + choice.text,
        "logprobs": _logprobs(logprobs, call),
        "finish_reason": choice.finish_reason,
    }
    if call.n_prompt_logprobs is not None:
        made["prompt_logprobs"] = [_by_id(token, call.n_prompt_logprobs) for token in choice.prompt_logprobs]
    return made


class Chunks:
    """Encodes the chunks of one stream as server-sent events. An echoed prompt is the first chunk of its choice."""

    def __init__(self, head: JsonObject, prompts: Sequence[Prompt], call: CompletionCall) -> None:
        self._head = {**head, "object": "text_completion"}
        self._usage: JsonObject = {"usage": None} if call.with_usage else {}
        self._prompts, self._call = prompts, call
        self._places: dict[int, TokenPlaces] = {}  # of the choices that have begun

    def delta(self, delta: ChatDelta) -> bytes:
        begin = self._begin(delta.index, delta.logprobs if delta.section == "prompt" else ())
        if delta.section == "prompt":
            return begin
        places = self._places[delta.index].of(delta.text, delta.logprobs)
        logprobs = _logprobs([*zip(delta.logprobs, places, strict=True)], self._call) if delta.logprobs else None
        return begin + self._chunk(delta.index, delta.text, logprobs)

    def end(self, reply: ChatReply) -> Iterable[bytes]:
        """Yields the finish reason of each choice, with warnings in the last one, then the usage when requested."""
        for index, choice in enumerate(reply.choices):
            further = warnings(reply) if index == len(reply.choices) - 1 else {}
            begin = self._begin(index, choice.prompt_logprobs)
            yield begin + self._chunk(index, "", None, choice.finish_reason, **further)
        if self._usage:
            yield data({**self._head, "choices": [], "usage": usage(reply)})
        yield b"data: [DONE]\n\n"

    def _begin(self, index: int, prompt_logprobs: Sequence[TokenLogprobs]) -> bytes:
        """Returns the chunk of an echoed prompt, or nothing when the choice has begun or there is no echo."""
        if index in self._places:
            return b""
        prompt = _prompt_of(index, self._prompts, self._call)
        self._places[index] = TokenPlaces(len(prompt.text) if self._call.echo else 0)
        if not self._call.echo:
            return b""
        return self._chunk(index, prompt.text, _logprobs(_echoed(prompt, prompt_logprobs), self._call))

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: JsonObject | None,
        finish_reason: str | None = None,
        **further: JsonObject,
    ) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return data({**self._head, "choices": [choice], **self._usage, **further})


def _prompt_of(index: int, prompts: Sequence[Prompt], call: CompletionCall) -> Prompt:
    return prompts[index // call.chat_input.n_choices]


def _echoed(prompt: Prompt, logprobs: Sequence[TokenLogprobs]) -> list[tuple[TokenLogprobs, int]]:
    """The tokens of a prompt and their places; nothing if no log probabilities were asked for."""
    return [*zip(logprobs, prompt.offsets, strict=True)] if logprobs else []


def _logprobs(tokens: Sequence[tuple[TokenLogprobs, int]], call: CompletionCall) -> JsonObject | None:
    """tokens: each with the number of characters before it."""
    if call.n_logprobs is None:
        return None
    return {
        "tokens": [token_name(token.chosen) for token, _ in tokens],
        "token_logprobs": [_logprob(token) for token, _ in tokens],
        "top_logprobs": [_likeliest(token, call.n_logprobs) for token, _ in tokens],
        "text_offset": [place for _, place in tokens],
    }


def _logprob(token: TokenLogprobs) -> float | None:
    return None if math.isnan(token.chosen.logprob) else json_logprob(token.chosen)


def _likeliest(token: TokenLogprobs, n: int) -> JsonObject | None:
    """The likeliest tokens, and the chosen one if it is none of them. Of equal texts the likeliest counts."""
    if math.isnan(token.chosen.logprob):
        return None
    found: JsonObject = {}
    for each in (*token.likeliest[:n], token.chosen):
        found.setdefault(token_name(each), json_logprob(each))
    return found


def _by_id(token: TokenLogprobs, n: int) -> JsonObject | None:
    """As vLLM has it. The rank is that among all tokens, if it is known."""
    if math.isnan(token.chosen.logprob):
        return None
    found: JsonObject = {}
    for rank, each in (*enumerate(token.likeliest[:n], 1), (None, token.chosen)):
        made = {"logprob": json_logprob(each), "rank": rank, "decoded_token": each.text}
        found.setdefault(str(each.token), made)
    return found
