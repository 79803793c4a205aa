"""transformers' continuous batching, stepped by hand. Device thread only; the one file that uses its internals (5.23).

Its own loop, thread, queues, output router, end-of-text rules and random sampling are left alone: sequences are added
and removed here, and one step gives one token to each that is past its prompt. Ends are the caller's to decide.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens
from transformers.generation.continuous_batching.requests import RequestState
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads
from transformers.generation.logits_process import LogitsProcessorList

from pipelines import device

PAGE_TOKENS = (
    32  # small pages waste little of a short chat: 35 tokens/s for eight against 10 one by one, docs of the design
)
FLASH_PAGE_TOKENS = 256  # flash attention reads its cache in pages of this size
PREFILL_TOKENS = {"cpu": 256}  # prompt tokens a step may take: about a second on two cores at 135M parameters
PREFILL_TOKENS_GPU = 1024
PREFILL_LEAST = 32  # prompt tokens a step takes even where its time is short, or a long prompt would never be read
PREFILL_S = (
    0.2  # longest that reading a part of a prompt may hold up the others: as long as a few tokens on a slow device
)
TRASH_BLOCKS = 2  # the cache keeps two blocks that no sequence ever gets

# (ids of the sequences, their logits (N, V) float32, written in place): the argmax of each row becomes its next token.
Choose: TypeAlias = Callable[[Sequence[str], Tensor], None]


@dataclass(frozen=True, slots=True)
class Stepped:
    shape: Literal["prefill", "decode"]
    ids: tuple[str, ...]  # the sequences that were in the forward
    tokens: dict[str, int]  # the new token of each that is past its prompt
    n_read: int = 0  # tokens that went through the model


class PagedBatch:
    """Sequences that share forwards and a paged KV cache of fixed size."""

    def __init__(self, model: Any, *, cache_bytes: int, max_rows: int, choose: Choose) -> None:
        """Raises ValueError if not one page fits into `cache_bytes`."""
        page = _page_of(model)
        n_blocks, max_tokens = _blocks_within(cache_bytes, page), page.prefill_tokens
        longest = math.ceil(model.config.get_text_config().max_position_embeddings / page.tokens) if page.flash else 0
        settings = ContinuousBatchingConfig(
            page_size=page.tokens,
            num_blocks=n_blocks,
            max_batch_tokens=max_tokens,
            max_requests_per_batch=max_rows,
            max_blocks_per_request=longest,
            use_async_batching=False,  # a step is over when it returns
            use_cuda_graph=False,  # a graph would replay the first step's sampling for ever
            auto_switch_to_flash=False,  # the switch may fetch kernels from the network
            safety_margin=0.0,  # what fits is counted by the lane, to the last token
            seed=0,
        )
        with torch.random.fork_rng():  # the processor seeds torch's global generator
            manager = model.init_continuous_batching(GenerationConfig(do_sample=False, eos_token_id=-1), settings)
            manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_Chooser(choose)]))
            manager.logit_processor.tensors_required = 1
            self._processor = manager._create_batch_processor()
        self._model = model
        self._most_tokens = max_tokens
        self._salts: dict[str, tuple[int, ...]] = {}  # sequence → what its prompt's blocks are named with
        self._cache = self._processor.cache
        self._keep_prompts_apart()
        stream = device.priority_stream(model.device)
        if stream is not None:
            self._processor.inputs_and_outputs.compute_stream = stream
            self._processor.offloading_manager._compute_stream = stream
        self.n_units = int(self._cache.num_sectors)
        self.longest_tokens = int(infer_max_single_request_tokens(self._cache))

    @property
    def cache_bytes(self) -> int:
        """Bytes held for the cache and the tensors that grow with it."""
        io = self._processor.inputs_and_outputs
        masks = (io.attention_mask or {}).values()
        indices = (io._bulk_input_tensor, io.write_index_storage, io.read_index_storage, io.block_table, io.output_ids)
        return sum(int(tensor.nbytes) for tensor in (self._cache.cache_tensor, *masks, *indices))

    def units(self, n_tokens: int) -> int:
        """Parts of the cache, of `n_units`, that a sequence of this length takes at most."""
        allocators = self._cache.cache_allocators.values()
        return sum(
            math.ceil(allocator.needs_new_blocks("", 0, n_tokens) / allocator.blocks_per_sector)
            for allocator in allocators
        )

    def add(self, sequence_id: str, prompt: list[int], owner: str = "") -> None:
        """owner: sequences share what the cache holds of equal prompts with those of the same owner only."""
        digest = hashlib.blake2b(owner.encode(), digest_size=32).digest()
        self._salts[sequence_id] = tuple(int.from_bytes(digest[i : i + 4], "little") >> 1 for i in range(0, 32, 4))
        state = RequestState(request_id=sequence_id, initial_tokens=prompt, max_new_tokens=None, eos_token_id=None)
        self._processor.scheduler.add_waiting_request(state)

    def remove(self, sequence_id: str) -> None:
        """Let go of the sequence and its pages, wherever it is."""
        self._processor.scheduler.set_request_cancellation(sequence_id)
        self._processor.scheduler.clear_cancelled_requests()
        self._salts.pop(sequence_id, None)

    def step(self, n_decoding: int = 0, token_s: float | None = None) -> Stepped:
        """One forward. Raises whatever the model raises; the batch is then of no further use.

        n_decoding: sequences past their prompt, who wait while the others' prompts are read. token_s: what reading a token
        takes, None: unknown. With somebody waiting only so much is read as fits `PREFILL_S`.
        """
        self._processor.max_batch_tokens = self._most_tokens
        if n_decoding and token_s is not None:
            read = max(PREFILL_LEAST, int(PREFILL_S / token_s))
            self._processor.max_batch_tokens = min(self._most_tokens, n_decoding + read)
        if not self._processor.prepare_next_batch():
            return Stepped("decode", (), {})
        self._processor._generation_step(self._model)
        self._processor.update_batch()
        futures = self._processor.inputs_and_outputs.requests_in_batch
        return Stepped(
            "prefill" if any(future.query_length > 1 for future in futures) else "decode",
            tuple(future.state.request_id for future in futures),
            {f.state.request_id: f.state.generated_tokens[-1] for f in futures if f.has_new_token},
            sum(future.query_length for future in futures),
        )

    def _keep_prompts_apart(self) -> None:
        """Name each block by its owner too. How soon a first token comes would else tell whether another had the same prompt.

        A block is named by a chain of hashes from the first on, so it is enough to change the first few tokens for the hashing.
        """

        def salted(sequence_id: str, tokens: list[int]) -> list[int]:
            salt = self._salts[sequence_id]
            return [token ^ word for token, word in zip(tokens, salt, strict=False)] + tokens[len(salt) :]

        def match(sequence_id: str, prompt: list[int], match: Any = self._cache.search_prefix_match) -> int:
            return int(match(sequence_id, salted(sequence_id, prompt)))

        self._cache.search_prefix_match = match
        for allocator in self._cache.cache_allocators.values():

            def mark(sequence_id: str, tokens: list[int], n: int, mark: Any = allocator.mark_complete_blocks) -> None:
                mark(sequence_id, salted(sequence_id, tokens), n)

            allocator.mark_complete_blocks = mark


class _Chooser(ContinuousBatchingLogitsProcessor):
    """Hands the lane the logits of the sequences that get a token. Last, and alone, in the list of processors."""

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - declared so by the base class
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._ids: tuple[str, ...] = ()

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        self._ids = tuple(future.state.request_id for future in requests_with_new_token)
        return torch.zeros(len(self._ids), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        self._choose(self._ids, scores[: len(self._ids)])  # rows after these are sequences still in their prompt
        return scores


def cache_bytes_for(model: Any, n_tokens: Sequence[int]) -> int:
    """Bytes of a cache that holds sequences of these lengths at once."""
    page = _page_of(model)
    return page.fixed_bytes + sum(math.ceil(n / page.tokens) + 1 for n in n_tokens) * page.n_bytes


@dataclass(frozen=True, slots=True)
class _Page:
    tokens: int
    n_bytes: int  # in all layers, with what grows by it: the attention mask and the indices read through
    fixed_bytes: int  # of a cache, besides its pages
    prefill_tokens: int  # most tokens of one step
    flash: bool


def _page_of(model: Any) -> _Page:
    config, itemsize = model.config.get_text_config(), model.dtype.itemsize
    flash = "flash" in (config._attn_implementation or "")
    tokens = FLASH_PAGE_TOKENS if flash else PAGE_TOKENS
    prefill = PREFILL_TOKENS.get(model.device.type, PREFILL_TOKENS_GPU)
    per_token = 2 * config.num_hidden_layers * find_num_key_value_heads(config) * find_head_dim(config) * itemsize
    mask_row = 0 if flash else prefill * itemsize
    fixed = TRASH_BLOCKS * tokens * per_token + prefill * (mask_row + 64)
    return _Page(tokens, tokens * (per_token + mask_row + 8), fixed, prefill, flash)


def _blocks_within(cache_bytes: int, page: _Page) -> int:
    n_blocks = (cache_bytes - page.fixed_bytes) // page.n_bytes
    if n_blocks < 1:
        least = page.fixed_bytes + page.n_bytes
        raise ValueError(f"a KV cache of {cache_bytes:,} bytes holds no page; {least:,} bytes hold one")
    return int(n_blocks)
