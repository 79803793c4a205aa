"""Drives transformers' continuous batching one step at a time. Device thread only.

Its own loop, thread, queues, output router, end-of-text rules and random sampling are not used: sequences are added and
removed here, and one step gives one token to each sequence whose prompt has been read. The caller decides when a
sequence ends. No other files use its internals (5.23) but `decode/steps.py`, `cache_salts.py` and
`sampling/sampling_hook.py`.

Prompts are read by transformers' own step. While there is none to read, `DecodeSteps` decodes where the model allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.logits_process import LogitsProcessorList

from pipelines import device
from pipelines.chat import paged_softcap  # noqa: F401  # registers attention that keeps soft caps
from pipelines.chat.cache_salts import CacheSalts
from pipelines.chat.context_length import context_of
from pipelines.chat.decode.options import DecodeOptions, not_static
from pipelines.chat.decode.step_compiler import StepCompiler
from pipelines.chat.decode.steps import DecodeSteps
from pipelines.chat.long_rope import long_rope_of
from pipelines.chat.page_size import blocks_within, page_of
from pipelines.chat.prompt_scores import PromptPart, PromptScorer, ScoringModel
from pipelines.chat.sampling.batch_sampler import BatchSampler
from pipelines.chat.sampling.sampling_hook import Sampler, SamplingHook
from pipelines.chat_interface import PromptMedia

MIN_PREFILL_TOKENS = 32  # prompt tokens of a step however slow the device is, so that a long prompt is read at all
MAX_PREFILL_S = 0.2  # longest that reading a part of a prompt may hold up other chats: a few tokens on a slow device


@dataclass(frozen=True, slots=True)
class BatchStep:
    """What one forward of a batch did."""

    stage: Literal["prefill", "decode"]
    ids: tuple[str, ...]  # the sequences in the forward
    tokens: dict[str, int]  # the new token of each sequence whose prompt has been read; -1: its logits are no numbers
    n_read: int = 0  # tokens that went through the model
    scores: Mapping[str, PromptPart] = field(default_factory=dict)  # of the prompts that are to be scored
    failed: Mapping[str, str] = field(default_factory=dict)  # sequences that the model failed on alone: its traceback


class _BatchProcessor(ContinuousBatchProcessor):
    """Does not collect all garbage of the process when it is dropped: `device.release_cache` follows in any case."""

    def __del__(self) -> None:
        pass


class PagedBatch:
    """Sequences that share forwards and a paged KV cache of fixed size."""

    def __init__(
        self,
        model: Any,
        *,
        cache_bytes: int,
        max_rows: int,
        sampler: Sampler,
        decode: DecodeOptions = DecodeOptions(),  # noqa: B008  # immutable
        compiler: StepCompiler | None = None,
    ) -> None:
        """cache_bytes: of the cache; buffers and graphs of static decode steps come on top.

        Raises ValueError when not one page fits into `cache_bytes`.
        """
        page = page_of(model)
        n_blocks, max_tokens = blocks_within(cache_bytes, page), page.prefill_tokens
        longest = math.ceil((context_of(model.config) or 0) / page.tokens) if page.flash else 0
        settings = ContinuousBatchingConfig(
            page_size=page.tokens,
            num_blocks=n_blocks,
            max_batch_tokens=max_tokens,
            max_requests_per_batch=max_rows,
            max_blocks_per_request=longest,
            use_async_batching=False,  # a step must be over when it returns
            use_cuda_graph=False,  # a graph would repeat the sampling of the first step
            auto_switch_to_flash=False,  # the switch may download kernels
            safety_margin=0.0,  # the lane counts what fits, to the last token
            seed=0,
        )
        with torch.random.fork_rng():  # the processor seeds torch's global generator
            manager = model.init_continuous_batching(GenerationConfig(do_sample=False, eos_token_id=-1), settings)
            self._hook = SamplingHook(sampler)
            manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self._hook]))
            manager.logit_processor.tensors_required = 1
            self._processor = manager._create_batch_processor()
            self._processor.__class__ = _BatchProcessor
        self._model, self._sampler = model, sampler
        self._max_step_tokens, self._page_tokens = max_tokens, page.tokens
        self._cache = self._processor.cache
        self._salts = CacheSalts(self._cache)
        self._scorer = PromptScorer()
        self._rope = long_rope_of(model)
        self._owners: dict[str, str | None] = {}  # of each sequence; None: it shares no blocks
        self.stream = stream = device.priority_stream(model.device)
        if stream is not None:
            self._processor.inputs_and_outputs.compute_stream = stream
            self._processor.offloading_manager._compute_stream = stream
        self.n_pages = int(self._cache.num_sectors)
        self.max_length = int(infer_max_single_request_tokens(self._cache))
        self._lookahead = decode.lookahead
        self._decode: DecodeSteps | None = None
        if decode.static and not not_static(model):
            longest_chat = min(self.max_length, context_of(model.config) or self.max_length)
            self._decode = DecodeSteps(model, self._cache, max_rows, longest_chat, decode, compiler, self._rope)
            device.finish(str(model.device))  # its buffers are filled before another stream reads them
            if decode.graphs and stream is not None:
                self._decode.capture(stream)
                if isinstance(sampler, BatchSampler):
                    self._decode.record_choice(sampler, stream)
            self._decode.begin_to_compile()

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cache, of the tensors that grow with it, and of what decode steps hold."""
        io = self._processor.inputs_and_outputs
        masks = (io.attention_mask or {}).values()
        indices = (io._bulk_input_tensor, io.write_index_storage, io.read_index_storage, io.block_table, io.output_ids)
        held = sum(int(tensor.nbytes) for tensor in (self._cache.cache_tensor, *masks, *indices))
        return held + (0 if self._decode is None else self._decode.n_bytes)

    @property
    def notes(self) -> list[str]:
        """Sentences about decode steps that are slower than they might be."""
        return [] if self._decode is None else self._decode.notes

    def __len__(self) -> int:
        scheduler = self._processor.scheduler
        return len(scheduler.active_requests) + len(scheduler.waiting_requests)

    def part_for(self, has_media: bool) -> PagedBatch:
        """The part of the batch, with pages of its own, that runs sequences with pictures or without."""
        return self

    def weights_moved(self) -> None:
        """Record the graphs of decode steps again, which hold the addresses of the weights."""
        if self._decode is not None:
            self._decode.capture_moved(self.stream)

    def improve(self) -> None:
        """Between two steps: use faster decode steps that have become ready, which may take seconds."""
        if self._decode is not None:
            with device.on_stream(self.stream):
                self._decode.improve()

    def close(self) -> None:
        """Wait for a forward that was launched ahead, so that the memory that it uses may be freed."""
        device.finish(str(self._model.device))

    def pages_for(self, n_tokens: int) -> int:
        """Pages, of `n_pages`, that a sequence of this length takes at most. transformers calls them sectors."""
        allocators = self._cache.cache_allocators.values()
        return sum(
            math.ceil(allocator.needs_new_blocks("", 0, n_tokens) / allocator.blocks_per_sector)
            for allocator in allocators
        )

    def has_room(self) -> bool:
        """Whether each sequence gets the pages that its next tokens need, if `pages_for` counts enough of them.

        Not always with several kinds of layers: each kind takes whole sectors, and another kind cannot use the free
        blocks in them.
        """
        if len(self._cache.cache_allocators) == 1:
            return True
        self._cache.pool.try_to_free_sectors()
        scheduler = self._processor.scheduler
        states = (*scheduler.active_requests.values(), *scheduler.waiting_requests.values())
        needs = [self._blocks_needed(state) for state in states]
        return int(self._cache.count_storable_requests(needs)) == len(needs)

    def add(
        self,
        sequence_id: str,
        prompt: list[int],
        owner: str = "",
        n_logprobs: int | None = None,
        media: PromptMedia | None = None,
    ) -> None:
        """owner: sequences share cached blocks of equal prompts only with sequences of the same owner.

        n_logprobs: the prompt is scored, with so many of the likeliest tokens at each place; None: it is not.
        """
        assert media is None, "pictures are read by the model's own forward: see mixed_batch.py"
        self._owners[sequence_id] = owner if n_logprobs is None else None
        if n_logprobs is not None:  # all its tokens go through the model, which those in cached blocks do not
            self._scorer.add(sequence_id, prompt, n_logprobs)
        self._read(sequence_id, prompt)

    def _read(self, sequence_id: str, tokens: list[int]) -> None:
        owner = self._owners[sequence_id]
        is_long = self._rope is not None and self._rope.is_long(len(tokens))  # its keys are no other text's
        self._salts.add(sequence_id, f"{owner}\0long" if is_long and owner is not None else owner)
        state = RequestState(request_id=sequence_id, initial_tokens=tokens, max_new_tokens=None, eos_token_id=None)
        self._processor.scheduler.add_waiting_request(state)

    def remove(self, sequence_id: str) -> None:
        """Free the sequence's pages, whatever its state."""
        self._forget(sequence_id)
        self._owners.pop(sequence_id, None)
        self._scorer.remove(sequence_id)

    def _forget(self, sequence_id: str) -> None:
        self._processor.scheduler.set_request_cancellation(sequence_id)
        self._processor.scheduler.clear_cancelled_requests()
        self._salts.remove(sequence_id)

    def step(self, n_decoding: int = 0, token_s: float | None = None) -> BatchStep:
        """Run one forward. Raises whatever the model raises; the batch must not be used after that.

        n_decoding: sequences that wait for their next token while other prompts are read. With any of them, only as
        much is read as takes `MAX_PREFILL_S`. token_s: seconds to read one token; None: not known yet.
        """
        if self._rope is not None and (self._decode is None or self._decode.pending is None):
            self._read_outgrown_anew(self._rope.limit)
        with device.on_stream(self.stream):  # transformers fills the inputs on the present stream
            decoded = None if self._decode is None else self._decode_step(self._decode)
            return decoded or self._stock_step(n_decoding, token_s)

    def _stock_step(self, n_decoding: int, token_s: float | None) -> BatchStep:
        """transformers' own step: reads prompts, and gives tokens to the sequences that have been read."""
        self._processor.max_batch_tokens = self._max_step_tokens
        if n_decoding and token_s is not None:
            read = max(MIN_PREFILL_TOKENS, int(MAX_PREFILL_S / token_s))
            self._processor.max_batch_tokens = min(self._max_step_tokens, n_decoding + read)
        if not self._processor.prepare_next_batch():
            return BatchStep("decode", (), {})
        futures = self._processor.inputs_and_outputs.requests_in_batch
        scores = self._scorer.forward(
            [
                (each.state.request_id, each.state.position_offset - each.query_length, each.query_length)
                for each in futures
            ]
        )
        texts = [(f.query_length, max(f.state.position_offset, len(f.state.initial_tokens))) for f in futures]
        with nullcontext() if self._rope is None else self._rope.by_text(texts):
            self._processor._generation_step(self._model if scores is None else ScoringModel(self._model, scores))
        self._processor.update_batch()
        n_read = sum(future.query_length for future in futures)
        if self._processor.scheduler.waiting_requests and n_read < self._processor.max_batch_tokens:
            # A new sequence has found no free blocks. Those of ended sequences are kept for equal prompts, and
            # transformers forgets them only for a sequence that it has begun to read.
            self._cache.evict_cached_blocks()
        return BatchStep(
            "prefill" if any(future.query_length > 1 for future in futures) else "decode",
            tuple(future.state.request_id for future in futures),
            self._hook.take_tokens(),
            n_read,
            {} if scores is None else scores.take(),
        )

    def _read_outgrown_anew(self, limit: int) -> None:
        """Read sequences again whose next token is the first that makes them long texts (`LongRope`)."""
        for state in [*self._processor.scheduler.active_requests.values()]:
            if state.status == RequestStatus.DECODING and state.position_offset == limit:
                self._forget(state.request_id)
                self._read(state.request_id, state.initial_tokens + state.generated_tokens)

    def _decode_step(self, decode: DecodeSteps) -> BatchStep | None:
        """Give each sequence its next token, from a forward that was launched ahead or is launched now.

        None: there is a prompt to read first, or too little room. Such a step is transformers'.
        """
        active = self._processor.scheduler.active_requests
        ahead = decode.pending
        rows = [] if ahead is None else [i for i, s in enumerate(ahead.states) if active.get(s.request_id) is s]
        if ahead is None or not rows:
            decode.pending = None
            states = self._ready_to_decode()
            if not states:
                return None
            self.weights_moved()  # those of a model that shares them may have been moved with its own
            decode.launch(states, follows=False)
            ahead, rows = decode.pending, [*range(len(states))]
        assert ahead is not None
        copied = decode.choose(self._sampler, rows)
        states = [ahead.states[row] for row in rows]
        if self._lookahead and not decode.pauses and len(states) == len(active) and self._ready_to_decode():
            decode.launch(states, follows=True)  # the device is busy while the host makes text of the tokens
        tokens = copied.wait().tolist()
        for state, row, token in zip(states, rows, tokens, strict=True):
            state.generated_tokens.append(token)
            state.tokens_to_process = [token]
            if ahead.lengths[row] % self._page_tokens == 0 and self._cache.use_prefix_sharing:
                self._cache.mark_complete_blocks(state, dict.fromkeys(self._cache.cache_allocators, 1))
                decode.pages_changed(state)
        ids = tuple(state.request_id for state in states)
        return BatchStep("decode", ids, dict(zip(ids, tokens, strict=True)), len(ids))

    def _ready_to_decode(self) -> list[Any]:
        """All sequences, when each needs only its next token, and with a page for it; or none."""
        scheduler = self._processor.scheduler
        states = list(scheduler.active_requests.values())
        if not states or scheduler.waiting_requests or not self._decode or not self._decode.holds(states):
            return []
        for state in states:
            if state.status != RequestStatus.DECODING or (self._rope and state.position_offset == self._rope.limit):
                return []
            if state.position_offset % self._page_tokens == 0 and not self._take_page(state):
                return []
        return states

    def _take_page(self, state: RequestState) -> bool:
        """Give the sequence a page for its next token if it needs one. Blocks kept for equal prompts make room."""
        if self._cache.can_store_request_tokens(state, 1):
            return True
        self._cache.evict_cached_blocks()
        self._cache.pool.try_to_free_sectors()
        return bool(self._cache.can_store_request_tokens(state, 1))

    def _blocks_needed(self, state: RequestState) -> dict[str, int]:
        """New blocks of each kind of layer for the tokens that the next step may read of a sequence."""
        n_unread = 1 if state.status == RequestStatus.DECODING else len(state.remaining_prefill_tokens)
        n_tokens = min(n_unread, self._max_step_tokens)
        return {
            kind: allocator.needs_new_blocks(state.request_id, state.current_len(), n_tokens)
            for kind, allocator in self._cache.cache_allocators.items()
        }
