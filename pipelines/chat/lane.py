"""The lane of one resident language model: chats join and leave a shared batch between any two tokens.

Device thread only. `admission.py` decides when a chat enters the batch, `delivery.py` what a step means for it.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch

from pipelines import device
from pipelines.chat.admission import Admission
from pipelines.chat.context_length import context_of
from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat.decode.step_compiler import StepCompiler
from pipelines.chat.delivery import MODEL_FAILED, Delivery
from pipelines.chat.kv_cache import KVCache, batch_kind, make_batch
from pipelines.chat.paged_batch import BatchStep
from pipelines.chat.queue import COMPONENT, ChatQueue, has_media, length_of, shape_of, step_units
from pipelines.chat.sampling.batch_sampler import BatchSampler
from pipelines.chat.sequence import ChatSequence, ChatTokenizer, begin
from pipelines.chat_interface import ChatRequest
from pipelines.concurrency import ConcurrencyLimit
from pipelines.costs import CostLog, Meter
from pipelines.fault_points import reach
from pipelines.host_offload import HostOffload
from pipelines.interface import (
    Canceled,
    Failed,
    FailureCode,
    Merging,
    NextStep,
    Note,
    OutOfMemory,
    Request,
    StepCost,
    Update,
    never_yield,
)

UNBATCHED_WARNING = "This architecture cannot share forwards: its chats take turns, one token at a time."


class ChatLane:
    kind: Literal["chat"] = "chat"
    verdicts: Mapping[str, bool] = MappingProxyType({})  # `merging` holds for the whole model

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        cache_bytes: int,
        max_running: int = 32,
        context_tokens: int | None = None,
        merging: Merging = "on",
        takes_images: bool = False,
        decode: DecodeOptions = DecodeOptions(),  # noqa: B008  # immutable
        notes: Sequence[str] = (),
    ) -> None:
        """merging: "off" for models that fail the proof (`proof.py`): their chats take turns, token by token.
        takes_images: chats with pictures take turns in any case, beside those without (`mixed_batch.py`).

        decode: static steps only for models that pass the proof with them, too. notes: see `Lane`.
        context_tokens: most tokens of a prompt and its reply; None: as many as the model's config says, or as the
        cache holds. Raises ValueError when `cache_bytes` hold no page of a cache.
        """
        self.merging: Merging = merging
        self.warnings: Sequence[str] = (UNBATCHED_WARNING,) if merging == "off" else ()
        self.tokenizer = tokenizer
        self._chat_tokenizer = ChatTokenizer(model, tokenizer)
        self._n_embeddings = model.get_input_embeddings().weight.shape[0]
        self._queue = ChatQueue()
        self._concurrency = ConcurrencyLimit(max_running)
        self._updates: list[Update] = []
        self._costs = CostLog(str(model.device))
        self._sampler = BatchSampler(self._queue.running, model.device)
        self._notes = (*notes, *self._sampler.notes)
        kind = batch_kind(merging, takes_images)
        self._compiler = None if decode.compile is None else StepCompiler(model, decode.compile)
        make = functools.partial(
            make_batch, model, max_running, self._sampler, kind, decode=decode, compiler=self._compiler
        )
        self._kv_cache = KVCache(make, cache_bytes)
        self._admission = Admission(model, self._queue, self._kv_cache, kind)
        self._host_offload = HostOffload([(COMPONENT, model)], str(model.device))
        self._token_s: float | None = None  # seconds to read one token of a prompt, exponential moving average
        batch = self._kv_cache.batch
        assert batch is not None
        context = context_tokens or context_of(model.config)
        held = {media: batch.part_for(media).max_length for media in (False, True)}
        self._max_lengths = {media: min(context or n, n) for media, n in held.items()}  # with pictures, and without

    @property
    def notes(self) -> Sequence[str]:
        of_batch = [] if self._kv_cache.batch is None else self._kv_cache.batch.notes
        return (*self._notes, *of_batch, *([] if self._compiler is None else self._compiler.notes))

    @property
    def preparing(self) -> bool:
        """Whether faster decode steps are being made, or wait for the next step to be used."""
        return self._compiler is not None and self._compiler.busy

    @property
    def components(self) -> Mapping[str, int]:
        return self._host_offload.components

    @property
    def parked(self) -> Mapping[str, int]:
        return self._host_offload.parked

    @property
    def mid_forward(self) -> bool:
        return False  # no forward of a chat takes long: prompts are read in parts

    @property
    def weight_bytes(self) -> int:
        return sum(self.components.values())

    @property
    def cache_bytes(self) -> int:
        return self._kv_cache.cache_bytes

    def admit(self, request: Request) -> None:
        assert isinstance(request, ChatRequest)
        max_length = self._max_lengths[request.prompt.media is not None]
        begun = begin(request, self._chat_tokenizer, max_length, self._n_embeddings)
        if isinstance(begun, Failed):
            self._updates.append(begun)
        else:
            self._queue.waiting.append(begun)

    def cancel(self, request_id: str) -> None:
        self._queue.cancel(request_id)

    def has_work(self) -> bool:
        return bool(self._queue or self._updates)

    @property
    def waits(self) -> bool:
        return False

    def take_costs(self) -> Sequence[Note]:
        return self._costs.take()

    def next_step(self) -> NextStep | None:
        return self._queue.next_step(self._concurrency.max_running)

    def park(self, names: Sequence[str]) -> int:
        return 0 if self._queue.running else self._host_offload.park(names)

    def unpark(self, names: Sequence[str]) -> int:
        n_bytes = self._host_offload.unpark(names)
        if self._kv_cache.batch is not None:
            self._kv_cache.batch.weights_moved()
        return n_bytes

    def drop_adapters(self, components: Sequence[str]) -> None:
        pass  # no request borrows any

    def resize_cache(self, n_bytes: int) -> int:
        """Make the KV cache again with `n_bytes`, or with what running chats need. Returns the bytes that it holds.

        Running chats go on after their tokens have been read in again. When memory runs out, the cache becomes as large
        as it can. When no cache can be made at all, the next step with chats tries again.
        """
        self._admission.resize_cache(n_bytes)
        return self.cache_bytes

    @torch.inference_mode()
    def step(
        self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield, in_tiles: bool = False
    ) -> Sequence[Update]:
        self._updates += [Canceled(request_id) for request_id in self._admission.remove_canceled()]
        failure: tuple[bool, str] | None = None
        try:
            if max_rows != 0:  # 0: only canceled requests are to end, and the weights may be parked
                self._run(max_rows, should_yield)
        except BaseException as error:  # also a panic of Rust code
            if device.is_fatal(error):
                raise
            failure = device.is_out_of_memory(error), "".join(traceback.format_exception(error))
        if failure is not None:  # outside the `except` block: the failed frames have let go of their tensors
            out_of_memory, detail = failure
            if out_of_memory:
                self._handle_out_of_memory(detail)
            else:
                self._handle_error(detail)
        updates, self._updates = self._updates, []
        return updates

    def close(self) -> None:
        assert not self._queue, "a lane is closed when nothing runs on it or waits for it"
        del self._chat_tokenizer
        self.tokenizer = None
        del self._admission  # it holds the model
        self._host_offload = HostOffload((), "cpu")
        self._kv_cache.close()
        if self._compiler is not None:
            self._compiler.close()
            self._compiler = None
        device.release_cache()

    def _run(self, max_rows: int | None, should_yield: Callable[[], bool]) -> None:
        """Admit waiting chats to the batch, then run one forward for all chats in it."""
        if not self._queue:
            return
        limit = min(self._concurrency.now, max_rows or self._concurrency.now)
        batch, too_large = self._admission.admit(limit)
        if too_large is not None:
            message = "The device has no memory for the KV cache of this chat."
            n_pages = batch.part_for(has_media(too_large)).n_pages
            self._fail([too_large], "out_of_memory", message, f"{too_large.n_pages} pages of {n_pages}")
        running = self._queue.running
        if not running:
            return
        n_decoding = len(running) - len(self._queue.unread())
        others_wait = n_decoding or should_yield()
        batch.improve()  # outside of what the step is said to cost
        key = self._cost_key()
        meter = self._costs.meter(key)
        with meter:
            reach("forward", "chat", *running)
            step = batch.step(max(1, n_decoding) if others_wait else 0, self._token_s)
            Delivery(batch, self._queue, self._updates).deliver(step, self._sampler.take_logprobs())
        if not running:
            self._sampler.forget()
        self._note(step, meter, key)

    def _note(self, step: BatchStep, meter: Meter, key: tuple[str, int, int]) -> None:
        if not step.ids:
            return
        if step.stage == "prefill":
            token_s = meter.seconds / step.n_read
            self._token_s = token_s if self._token_s is None else self._token_s + 0.3 * (token_s - self._token_s)
        rows = len(step.ids)
        units = max(1, step.n_read // rows)
        shape = "score" if step.scores else step.stage
        cost = StepCost(shape, rows, meter.seconds, step.ids, step.stage, COMPONENT, units=units)
        self._costs.add_step(cost, key, meter.peak_bytes)
        self._concurrency.step_succeeded()

    def _cost_key(self) -> tuple[str, int, int]:
        """Steps with the same key use about the same memory: (shape, rows, tokens to read in powers of two)."""
        unread = self._queue.unread()
        return shape_of(unread), len(self._queue.running), sum(map(length_of, unread)).bit_length()

    def _handle_error(self, detail: str) -> None:
        """Fail the chats that shared the failed forward; the next step makes a new batch.

        When no chat was running, the KV cache could not be made. That would fail again, so all waiting chats fail.
        """
        if self._queue.running:
            chats, message = [*self._queue.running.values()], MODEL_FAILED
        else:
            chats, message = [*self._queue.waiting], "The model's KV cache could not be made."
        self._fail(chats, "model_error", message, detail)
        self._kv_cache.free()

    def _handle_out_of_memory(self, detail: str) -> None:
        """1. Run half as many chats at once. 2. For a chat that runs alone, halve the KV cache. 3. Fail that chat.

        No chat loses a token: those that ran are read in again with their replies so far.
        """
        running = [*self._queue.running.values()]
        unread, ids = self._queue.unread(), tuple(chat.id for chat in running)
        self._costs.add(OutOfMemory(COMPONENT, "forward", shape_of(unread), step_units(unread), len(ids), ids))
        self._concurrency.ran_out_of_memory(len(running))
        if len(running) > 1:
            self._queue.put_back()
            self._kv_cache.free()
        elif running and not running[0].ran_out_of_memory_alone:
            running[0].ran_out_of_memory_alone = True
            self._queue.put_back()
            self._kv_cache.halve()
        else:  # when none ran, not even a cache for the first waiting chat could be made
            message = "The device ran out of memory for this reply, even alone."
            self._fail(self._queue.next_chats(), "out_of_memory", message, detail)
            self._kv_cache.free()

    def _fail(self, chats: Collection[ChatSequence], code: FailureCode, message: str, detail: str) -> None:
        self._updates += [Failed(chat.id, code, message, detail) for chat in chats]
        self._queue.remove([chat.id for chat in chats])
