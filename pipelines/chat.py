"""The lane of one resident language model: chats join and leave a shared batch between any two tokens. Device thread only.

A chat enters the batch only when the cache holds it to its last token, in order of arrival; the others wait here.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines import device
from pipelines.interface import (
    Canceled,
    ChatRequest,
    Failed,
    FailureCode,
    FinishReason,
    LaneStage,
    Merging,
    Note,
    Quantum,
    Replied,
    Request,
    StepCost,
    TextDelta,
    Update,
    never,
)
from pipelines.paged import PagedBatch
from pipelines.prompting import PromptRefused, prompt_tokens
from pipelines.sampling import draw, penalize, row_key
from pipelines.stopping import ReplyText

COMPONENT = "model"  # a language model is of one piece


@dataclass(slots=True)
class Chat:
    """One request on its way."""

    request: ChatRequest
    prompt: list[int]
    text: ReplyText
    n_units: int = 0  # parts of the cache set aside for it
    n_tokens: int = 0  # tokens of the reply so far
    counts: Counter[int] = field(default_factory=Counter)  # how often each token is in it
    broken: bool = False  # its logits were not numbers


class ChatLane:
    kind: Literal["chat"] = "chat"
    merging: Merging = "on"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        cache_bytes: int,
        max_running: int = 32,
        context_tokens: int | None = None,
    ) -> None:
        """Raises ValueError if `cache_bytes` holds no page of a cache. context_tokens: None = what the model was made for."""
        self._model, self._tokenizer = model, tokenizer
        self._ends = _end_tokens(model, tokenizer)
        self._max_running = max_running
        self._waiting: deque[Chat] = deque()
        self._running: dict[str, Chat] = {}
        self._to_cancel: set[str] = set()
        self._updates: list[Update] = []
        self._costs: list[Note] = []
        self._new_batch = functools.partial(
            PagedBatch, model, cache_bytes=cache_bytes, max_rows=max_running, choose=self._choose
        )
        self._batch: PagedBatch | None = self._new_batch()
        self._cache_bytes = self._batch.cache_bytes
        context = context_tokens or model.config.get_text_config().max_position_embeddings
        self._longest_tokens = min(context, self._batch.longest_tokens)

    @property
    def components(self) -> Mapping[str, int]:
        return {COMPONENT: self.weight_bytes}

    @property
    def parked(self) -> Mapping[str, int]:
        return {}

    @property
    def midway(self) -> bool:
        return False

    @property
    def weight_bytes(self) -> int:
        tensors = {t.data_ptr(): t for t in (*self._model.parameters(), *self._model.buffers())}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    @property
    def cache_bytes(self) -> int:
        return self._cache_bytes

    def admit(self, request: Request) -> None:
        assert isinstance(request, ChatRequest)
        try:
            prompt = prompt_tokens(self._tokenizer, request.messages)
        except PromptRefused as error:
            message = "This model's chat template does not take these messages."
            self._updates.append(Failed(request.id, "bad_request", message, str(error)))
            return
        if request.max_tokens < 1:
            self._updates.append(Failed(request.id, "bad_request", "max_tokens must be at least 1."))
            return
        n_tokens = len(prompt) + request.max_tokens
        if n_tokens > self._longest_tokens:
            message = (
                f"The prompt has {len(prompt)} tokens and max_tokens is {request.max_tokens}: "
                f"together {n_tokens}, {n_tokens - self._longest_tokens} more than the {self._longest_tokens} that fit."
            )
            self._updates.append(Failed(request.id, "context_overflow", message))
            return
        self._waiting.append(Chat(request, prompt, ReplyText(self._decode, request.stop)))

    def cancel(self, request_id: str) -> None:
        if request_id in self._running or any(chat.request.id == request_id for chat in self._waiting):
            self._to_cancel.add(request_id)

    def has_work(self) -> bool:
        return bool(self._waiting or self._running or self._updates)

    def take_costs(self) -> Sequence[Note]:
        costs, self._costs = self._costs, []
        return costs

    def next_quantum(self) -> Quantum | None:
        if not self._waiting and not self._running:
            return None
        reading = [chat.request.id for chat in self._running.values() if not chat.n_tokens]
        together = [*self._running, *(chat.request.id for chat in self._waiting)][: self._max_running]
        stage: LaneStage = "prefill" if reading or len(together) > len(self._running) else "decode"
        return Quantum(COMPONENT, "forward", stage, stage, 1, len(together), tuple(together))

    def park(self, names: Sequence[str]) -> int:
        return 0

    def unpark(self, names: Sequence[str]) -> int:
        return 0

    def resize_cache(self, n_bytes: int) -> int:
        return self._cache_bytes

    @torch.inference_mode()
    def step(self, max_rows: int | None = None, give_way: Callable[[], bool] = never) -> Sequence[Update]:
        self._end_canceled()
        failure: tuple[FailureCode, str] | None = None
        try:
            self._run()
        except Exception as error:
            if device.is_fatal(error):
                raise
            code: FailureCode = "out_of_memory" if device.is_out_of_memory(error) else "model_error"
            failure = code, "".join(traceback.format_exception(error))
        if failure is not None:  # outside the except block: the failed frames have let go of their tensors
            self._start_over(*failure)
        updates, self._updates = self._updates, []
        return updates

    def close(self) -> None:
        assert not self._running, "a lane is closed when nothing runs on it"
        assert not self._waiting, "a lane is closed when nothing waits for it"
        self._model = self._tokenizer = self._batch = None
        del self._new_batch  # it holds the model too
        device.release_cache()

    def _run(self) -> None:
        """Let in who fits, then one forward of all that run."""
        batch = self._batch = self._batch or self._new_batch()
        self._let_in(batch)
        if not self._running:
            return
        start = time.perf_counter()
        stepped = batch.step()
        for request_id, token in stepped.tokens.items():
            self._take(batch, self._running[request_id], token)
        seconds = time.perf_counter() - start
        cost = StepCost(stepped.shape, len(stepped.ids), seconds, stepped.ids, stepped.shape, COMPONENT, units=1)
        self._costs.append(cost)

    def _let_in(self, batch: PagedBatch) -> None:
        """Strictly in order of arrival: who does not fit yet holds back those behind, so nobody starves."""
        n_free = batch.n_units - sum(chat.n_units for chat in self._running.values())
        while self._waiting and len(self._running) < self._max_running:
            chat = self._waiting[0]
            chat.n_units = batch.units(len(chat.prompt) + chat.request.max_tokens)
            if chat.n_units > n_free:
                return
            n_free -= chat.n_units
            self._running[chat.request.id] = self._waiting.popleft()
            batch.add(chat.request.id, chat.prompt)

    def _take(self, batch: PagedBatch, chat: Chat, token: int) -> None:
        """Add one token to the reply, and end the reply if it was the last."""
        request = chat.request
        if chat.broken:
            self._remove(
                batch, chat, Failed(request.id, "invalid_output", "The model produced values that are not numbers.")
            )
            return
        chat.n_tokens += 1
        chat.counts[token] += 1
        delta = "" if token in self._ends else chat.text.push(token)
        finish: FinishReason | None = None
        if token in self._ends or chat.text.stopped:
            finish = "stop"
        elif chat.n_tokens == request.max_tokens:
            finish = "length"
        if finish is not None:
            delta += chat.text.finish()
        if delta:
            self._updates.append(TextDelta(request.id, delta))
        if finish is not None:
            reply = Replied(request.id, chat.text.text, len(chat.prompt), chat.n_tokens, finish)
            self._remove(batch, chat, reply)

    def _remove(self, batch: PagedBatch, chat: Chat, end: Update) -> None:
        batch.remove(chat.request.id)
        del self._running[chat.request.id]
        self._to_cancel.discard(chat.request.id)
        self._updates.append(end)

    def _end_canceled(self) -> None:
        for request_id in self._to_cancel:
            if self._running.pop(request_id, None) is not None and self._batch is not None:
                self._batch.remove(request_id)
            self._updates.append(Canceled(request_id))
        self._waiting = deque(chat for chat in self._waiting if chat.request.id not in self._to_cancel)
        self._to_cancel.clear()

    def _start_over(self, code: FailureCode, detail: str) -> None:
        """Fail those that shared the failed forward; a new batch is made in the next step. Those who wait stay."""
        failed = self._running or {
            chat.request.id: chat for chat in self._waiting
        }  # nobody ran: no batch could be made
        message = {
            "out_of_memory": "The device ran out of memory while it generated this reply.",
            "model_error": "The model failed while it generated this reply.",
        }[code]
        self._updates += [Failed(request_id, code, message, detail) for request_id in failed]
        if not self._running:
            self._waiting.clear()
        self._running.clear()
        self._batch = None
        device.release_cache()

    def _choose(self, ids: Sequence[str], logits: Tensor) -> None:
        """Write into each row what makes its argmax the next token. logits: (N, V) float32, one row for each of `ids`."""
        chats = [self._running[request_id] for request_id in ids]
        for chat, sound in zip(chats, logits.amax(-1).isfinite().tolist(), strict=True):
            chat.broken = not sound
        for row, chat in enumerate(chats):
            r = chat.request
            if r.repetition_penalty != 1.0 or r.presence_penalty or r.frequency_penalty:
                logits[row] = penalize(
                    logits[row],
                    chat.prompt,
                    chat.counts,
                    repetition=r.repetition_penalty,
                    presence=r.presence_penalty,
                    frequency=r.frequency_penalty,
                )
        sampled = [(row, chat) for row, chat in enumerate(chats) if chat.request.temperature > 0 and not chat.broken]
        if not sampled:
            return
        tensor = functools.partial(torch.tensor, device=logits.device)
        rows = tensor([row for row, _ in sampled])
        requests = [chat.request for _, chat in sampled]
        tokens = draw(
            logits[rows],
            tensor([r.temperature for r in requests]),
            tensor([r.top_k for r in requests]),
            tensor([r.top_p for r in requests], dtype=torch.float64),
            tensor([row_key(chat.request.seed, chat.n_tokens) for _, chat in sampled]),
        )
        logits[rows, tokens] = torch.inf

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply: the tokenizer's and all that the model's generation settings name."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)
