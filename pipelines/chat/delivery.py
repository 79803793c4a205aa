"""Hands the tokens and scores of one step of the batch to their chats, and ends the chats that are complete or failed.

Device thread only.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping

from pipelines.chat.grammar.constrained_reply import ReplyRefused
from pipelines.chat.kv_cache import Batch
from pipelines.chat.paged_batch import BatchStep
from pipelines.chat.prompt_scores import PromptPart
from pipelines.chat.queue import ChatQueue
from pipelines.chat.sampling.likeliest import Likeliest
from pipelines.chat.sequence import ChatSequence
from pipelines.interface import Failed, Update

MODEL_FAILED = "The model failed while it generated this reply."
TOKENIZER_FAILED = "The model's tokenizer failed on this reply."
NOT_NUMBERS = "The model produced values that are not numbers."


class Delivery:
    def __init__(self, batch: Batch, queue: ChatQueue, updates: list[Update]) -> None:
        """updates: gets what each chat has to tell its client."""
        self._batch = batch
        self._queue = queue
        self._updates = updates

    def deliver(self, step: BatchStep, logprobs: Mapping[str, tuple[float, Likeliest]]) -> None:
        """logprobs: of the new tokens of chats that report them, with the likeliest ones."""
        running = self._queue.running
        for request_id, detail in step.failed.items():
            self._end(running[request_id], Failed(request_id, "model_error", MODEL_FAILED, detail))
        for request_id, part in step.scores.items():
            self._add_scores(running[request_id], part)
        new = [(running[request_id], token) for request_id, token in step.tokens.items() if request_id in running]
        for chat, token in sorted(new, key=lambda pair: pair[0].n_tokens > 0):  # first tokens go out first
            self._append(chat, token, logprobs.get(chat.id))

    def _append(self, chat: ChatSequence, token: int, logprobs: tuple[float, Likeliest] | None) -> None:
        """Add one token to the reply, and end the reply if it was the last."""
        if token < 0:
            self._end(chat, Failed(chat.id, "invalid_output", NOT_NUMBERS))
            return
        try:
            self._updates += chat.prompt_read()
            deltas, finish = chat.append(token, logprobs) if chat.max_tokens else ((), "length")
        except ReplyRefused as refusal:
            self._end(chat, Failed(chat.id, "bad_request", str(refusal)))
            return
        except Exception as error:  # noqa: BLE001  # the tokenizer may raise anything; the other chats go on
            self._tokenizer_failed(chat, error)
            return
        self._updates += deltas
        if finish is not None:
            self._end(chat, chat.replied(finish))

    def _add_scores(self, chat: ChatSequence, part: PromptPart) -> None:
        """Add what one forward has found of the log probabilities of a prompt."""
        if any(math.isnan(score.logprob) for score in part.scores):
            self._end(chat, Failed(chat.id, "invalid_output", NOT_NUMBERS))
            return
        try:
            chat.add_scores(part)
        except Exception as error:  # noqa: BLE001  # as above
            self._tokenizer_failed(chat, error)

    def _tokenizer_failed(self, chat: ChatSequence, error: Exception) -> None:
        detail = "".join(traceback.format_exception(error))
        self._end(chat, Failed(chat.id, "model_error", TOKENIZER_FAILED, detail))

    def _end(self, chat: ChatSequence, end: Update) -> None:
        self._batch.remove(chat.id)
        self._queue.remove([chat.id])
        self._updates.append(end)
