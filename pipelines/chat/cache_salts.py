"""Makes the names of cached blocks depend on the owner of a sequence too. Device thread only.

Otherwise the time to a first token would reveal whether another owner had sent the same prompt. A block's name is a
chain of hashes that starts with the first block, so it is enough to change the first few tokens before hashing.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any


class CacheSalts:
    """The salts of the sequences in one cache, which are those of their owners."""

    def __init__(self, cache: Any) -> None:
        """cache: transformers' `PagedAttentionCache`, which hashes salted tokens from now on."""
        self._salts: dict[str, tuple[int, ...]] = {}  # by sequence

        def match(sequence_id: str, prompt: list[int], match: Any = cache.search_prefix_match) -> int:
            return int(match(sequence_id, self._salted(sequence_id, prompt)))

        cache.search_prefix_match = match
        for allocator in cache.cache_allocators.values():

            def mark(sequence_id: str, tokens: list[int], n: int, mark: Any = allocator.mark_complete_blocks) -> None:
                mark(sequence_id, self._salted(sequence_id, tokens), n)

            allocator.mark_complete_blocks = mark

    def add(self, sequence_id: str, owner: str | None) -> None:
        """owner: None for a sequence that shares no block with any other, nor with itself when it is added again."""
        digest = secrets.token_bytes(32) if owner is None else hashlib.blake2b(owner.encode(), digest_size=32).digest()
        self._salts[sequence_id] = tuple(int.from_bytes(digest[i : i + 4], "little") >> 1 for i in range(0, 32, 4))

    def remove(self, sequence_id: str) -> None:
        self._salts.pop(sequence_id, None)

    def _salted(self, sequence_id: str, tokens: list[int]) -> list[int]:
        salt = self._salts[sequence_id]
        return [token ^ word for token, word in zip(tokens, salt, strict=False)] + tokens[len(salt) :]
