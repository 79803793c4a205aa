"""The lane of one resident language model: chats join and leave a shared batch between any two tokens. Device thread only.

A chat enters the batch only when the cache holds it to its last token, in order of arrival; the others wait here.
"""

from __future__ import annotations

import functools
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines import device
from pipelines.chat.kv_cache import KVCache, bytes_for, make_batch
from pipelines.chat.paged_batch import Stepped
from pipelines.chat.sampling import choose
from pipelines.chat.sequence import Chat, begin, end_tokens
from pipelines.chat.unbatched import Batch
from pipelines.costs import Costs, Meter
from pipelines.host_offload import HostOffload
from pipelines.interface import (
    Canceled,
    ChatRequest,
    Failed,
    FailureCode,
    LaneStage,
    Merging,
    NextStep,
    Note,
    OutOfMemory,
    Replied,
    Request,
    StepCost,
    TextDelta,
    Update,
    never_yield,
)

COMPONENT = "model"  # a language model is of one piece
CALM_STEPS = 100  # after an out-of-memory, until twice as many chats may run again
TAKES_TURNS = "This architecture cannot share forwards: its chats take turns, one token at a time."
MOST_UNITS = 1024  # tokens of a prompt that one step reads at most


class ChatLane:
    kind: Literal["chat"] = "chat"
    verdicts: Mapping[str, bool] = MappingProxyType({})  # its batching needs no proof

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        cache_bytes: int,
        max_running: int = 32,
        context_tokens: int | None = None,
        merging: Merging = "on",
    ) -> None:
        """merging: "off" takes turns token by token, for models that the shared batch cannot take (`chat_proof.py`).

        Raises ValueError if `cache_bytes` holds no page of a cache. context_tokens: None = what the model was made for.
        """
        self.merging: Merging = merging
        self.warnings: Sequence[str] = (TAKES_TURNS,) if merging == "off" else ()
        self._model, self._tokenizer = model, tokenizer
        self._ends = end_tokens(model, tokenizer)
        self._max_running = max_running
        self._waiting: deque[Chat] = deque()
        self._running: dict[str, Chat] = {}
        self._to_cancel: set[str] = set()
        self._updates: list[Update] = []
        self._costs = Costs(str(model.device))
        make = functools.partial(make_batch, model, max_running, self._choose, merging)
        self._room = KVCache(make, cache_bytes)
        self._parking = HostOffload([(COMPONENT, model)], str(model.device))
        self._allowed = max_running  # chats at once, after an out-of-memory fewer
        self._calm = 0  # steps since then
        self._token_s: float | None = None  # what reading a token of a prompt takes, running mean
        context = context_tokens or model.config.get_text_config().max_position_embeddings
        assert self._room.batch is not None
        self._longest_tokens = min(context, self._room.batch.longest_tokens)

    @property
    def components(self) -> Mapping[str, int]:
        return self._parking.components

    @property
    def parked(self) -> Mapping[str, int]:
        return self._parking.parked

    @property
    def mid_forward(self) -> bool:
        return False  # its forwards are short: prompts are read in parts

    @property
    def weight_bytes(self) -> int:
        return sum(self.components.values())

    @property
    def cache_bytes(self) -> int:
        return self._room.cache_bytes

    def admit(self, request: Request) -> None:
        assert isinstance(request, ChatRequest)
        begun = begin(request, self._tokenizer, self._ends, self._longest_tokens)
        if isinstance(begun, Failed):
            self._updates.append(begun)
        else:
            self._waiting.append(begun)

    def cancel(self, request_id: str) -> None:
        if request_id in self._running or any(chat.request.id == request_id for chat in self._waiting):
            self._to_cancel.add(request_id)

    def has_work(self) -> bool:
        return bool(self._waiting or self._running or self._updates)

    def take_costs(self) -> Sequence[Note]:
        return self._costs.take()

    def next_step(self) -> NextStep | None:
        running = [chat for name, chat in self._running.items() if name not in self._to_cancel]
        chats = [*running, *(chat for chat in self._waiting if chat.request.id not in self._to_cancel)]
        if not chats:
            return None
        together = tuple(chat.request.id for chat in chats[: self._max_running])
        reading = any(not chat.n_tokens for chat in running) or len(together) > len(running)
        stage: LaneStage = "prefill" if reading else "decode"
        tokens = max(len(chat.prompt) for chat in chats) if reading else 1
        return NextStep(COMPONENT, "forward", stage, stage, min(tokens, MOST_UNITS), len(together), together)

    def park(self, names: Sequence[str]) -> int:
        return 0 if self._running else self._parking.park(names)

    def unpark(self, names: Sequence[str]) -> int:
        return self._parking.unpark(names)

    def resize_cache(self, n_bytes: int) -> int:
        """Make the cache anew; chats that run go on, after their tokens were read in again.

        Out of memory it becomes as large as it can. Where none can be made there is none, and the next step with chats tries again.
        """
        n_bytes = max(n_bytes, self._least_bytes() if self._running else 0)
        self._put_back()
        self._room.give_back(n_bytes)
        if n_bytes:
            try:
                self._room.open(self._least_bytes())
            except Exception as error:  # of any kind: the next step tells the chats, if it comes again
                if device.is_fatal(error):
                    raise
        return self.cache_bytes

    @torch.inference_mode()
    def step(self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield) -> Sequence[Update]:
        self._end_canceled()
        failure: tuple[bool, str] | None = None
        try:
            if max_rows != 0:  # 0: only the ends of canceled requests are wanted: the weights may be parked
                self._run(max_rows, should_yield)
        except Exception as error:
            if device.is_fatal(error):
                raise
            failure = device.is_out_of_memory(error), "".join(traceback.format_exception(error))
        if failure is not None:  # outside the except block: the failed frames have let go of their tensors
            ran_out, detail = failure
            if ran_out:
                self._retreat(detail)
            else:
                self._start_over(detail)
        updates, self._updates = self._updates, []
        return updates

    def close(self) -> None:
        assert not self._running, "a lane is closed when nothing runs on it"
        assert not self._waiting, "a lane is closed when nothing waits for it"
        self._model = self._tokenizer = None
        self._parking = HostOffload((), "cpu")
        self._room.close()
        device.release_cache()

    def _run(self, max_rows: int | None, should_yield: Callable[[], bool]) -> None:
        """Let in who fits, then one forward of all that run."""
        if not self._running and not self._waiting:
            return
        batch = self._let_in(self._room.batch or self._room.open(self._least_bytes()), max_rows)
        if not self._running:
            return
        n_decoding = sum(chat.n_tokens > 0 for chat in self._running.values())
        hurried = n_decoding or should_yield()
        key = self._expected_key()
        meter = self._costs.meter(key)
        with meter:
            stepped = batch.step(max(1, n_decoding) if hurried else 0, self._token_s)
            new = [(self._running[request_id], token) for request_id, token in stepped.tokens.items()]
            for chat, token in sorted(new, key=lambda each: each[0].n_tokens > 0):  # first words go out first
                self._take(batch, chat, token)
        self._note(stepped, meter, key)

    def _note(self, stepped: Stepped, meter: Meter, key: tuple[str, int, int]) -> None:
        if not stepped.ids:
            return
        if stepped.shape == "prefill":
            token_s = meter.seconds / stepped.n_read
            self._token_s = token_s if self._token_s is None else self._token_s + 0.3 * (token_s - self._token_s)
        rows = len(stepped.ids)
        units = max(1, stepped.n_read // rows)
        cost = StepCost(stepped.shape, rows, meter.seconds, stepped.ids, stepped.shape, COMPONENT, units=units)
        self._costs.stepped(cost, key, meter.peak_bytes)
        self._calm += 1
        if self._calm % CALM_STEPS == 0:
            self._allowed = min(self._max_running, 2 * self._allowed)

    def _expected_key(self) -> tuple[str, int, int]:
        """(stage, rows, tokens by powers of two)"""
        reading = sum(len(chat.prompt) for chat in self._running.values() if not chat.n_tokens)
        return ("prefill" if reading else "decode", len(self._running), reading.bit_length())

    def _least_bytes(self) -> int:
        """Of a cache that holds those who run, or the first of those who wait, to their last token."""
        chats = [*self._running.values()] or [*self._waiting][:1]
        return bytes_for(self._model, [chat.longest_tokens for chat in chats], self.merging)

    def _let_in(self, batch: Batch, max_rows: int | None) -> Batch:
        """Strictly in order of arrival: who does not fit yet holds back those behind, so nobody starves."""
        most = min(self._allowed, max_rows or self._allowed)
        n_free = batch.n_units - sum(chat.n_units for chat in self._running.values())
        while self._waiting and len(self._running) < most:
            chat = self._waiting[0]
            chat.n_units = batch.units(chat.longest_tokens)
            if chat.n_units > n_free and not self._running:  # the cache was made smaller since it came
                self._room.give_back()
                batch = self._room.open(self._least_bytes())
                n_free = batch.n_units
                if chat.n_units > n_free:
                    message = "The device has no room for the cache of this chat."
                    self._fail([chat], "out_of_memory", message, f"{chat.n_units} pages of {n_free}")
                    continue
            if chat.n_units > n_free:
                return batch
            n_free -= chat.n_units
            self._running[chat.request.id] = self._waiting.popleft()
            batch.add(chat.request.id, chat.prompt + chat.tokens, chat.request.owner)
        return batch

    def _take(self, batch: Batch, chat: Chat, token: int) -> None:
        """Add one token to the reply, and end the reply if it was the last."""
        request = chat.request
        if chat.broken:
            self._remove(
                batch, chat, Failed(request.id, "invalid_output", "The model produced values that are not numbers.")
            )
            return
        try:
            delta, finish = chat.take(token)
        except Exception as error:  # noqa: BLE001  # the tokenizer may raise anything; the other chats go on
            detail = "".join(traceback.format_exception(error))
            message = "The model's tokenizer failed on this reply."
            self._remove(batch, chat, Failed(request.id, "model_error", message, detail))
            return
        if delta:
            self._updates.append(TextDelta(request.id, delta))
        if finish is not None:
            reply = Replied(request.id, chat.text.text, len(chat.prompt), chat.n_tokens, finish)
            self._remove(batch, chat, reply)

    def _remove(self, batch: Batch, chat: Chat, end: Update) -> None:
        batch.remove(chat.request.id)
        del self._running[chat.request.id]
        self._to_cancel.discard(chat.request.id)
        self._updates.append(end)

    def _end_canceled(self) -> None:
        canceled, self._to_cancel = self._to_cancel, set()
        ran = [request_id for request_id in canceled if self._running.pop(request_id, None) is not None]
        self._waiting = deque(chat for chat in self._waiting if chat.request.id not in canceled)
        self._updates += [Canceled(request_id) for request_id in canceled]
        if self._room.batch is not None and not self._removed(self._room.batch, ran):
            self._put_back()
            self._room.give_back()

    def _removed(self, batch: Batch, ids: Sequence[str]) -> bool:
        """False when the batch failed to let go of them, and so is of no further use."""
        try:
            for request_id in ids:
                batch.remove(request_id)
        except Exception as error:  # the library's own, of any kind
            if device.is_fatal(error):
                raise
            return False
        return True

    def _start_over(self, detail: str) -> None:
        """Fail the chats that shared the failed forward, and make a new batch in the next step.

        With none running it was the cache that could not be made: it would fail again, so all that wait for it fail.
        """
        if self._running:
            message = "The model failed while it generated this reply."
            self._fail(list(self._running.values()), "model_error", message, detail)
        else:
            self._fail(list(self._waiting), "model_error", "The model's KV cache could not be made.", detail)
        self._room.give_back()

    def _retreat(self, detail: str) -> None:
        """Out of memory. 1. Half as many at once, the others wait. 2. One alone: half the cache. 3. That one fails.

        Nobody loses a word: who ran is read in again, reply so far and all.
        """
        ids = tuple(self._running)
        reading = [len(chat.prompt) for chat in self._running.values() if not chat.n_tokens]
        stage, units = ("prefill", min(max(reading), MOST_UNITS)) if reading else ("decode", 1)
        self._costs.add(OutOfMemory(COMPONENT, "forward", stage, units, len(ids), ids))
        self._calm = 0
        chats = list(self._running.values()) or [*self._waiting][:1]  # nobody ran: no cache could be made for the first
        if len(chats) > 1:
            self._allowed = len(chats) // 2
            self._put_back()
            self._room.give_back()
        elif chats and ids and not chats[0].refused:
            chats[0].refused = True
            self._put_back()
            self._room.halve()
        else:
            self._fail(chats, "out_of_memory", "The device ran out of memory for this reply, even alone.", detail)
            self._room.give_back()

    def _put_back(self) -> None:
        """Who runs waits again, before all others and in the same order."""
        self._waiting.extendleft(reversed(self._running.values()))
        self._running.clear()

    def _fail(self, chats: Sequence[Chat], code: FailureCode, message: str, detail: str) -> None:
        for chat in chats:
            self._updates.append(Failed(chat.request.id, code, message, detail))
            self._running.pop(chat.request.id, None)
            if chat in self._waiting:
                self._waiting.remove(chat)

    def _choose(self, ids: Sequence[str], logits: Tensor) -> None:
        choose([self._running[request_id] for request_id in ids], logits)
