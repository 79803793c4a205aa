"""The requests of one embedding lane that have not ended, and the vectors that they have so far.

Device thread only; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.embedding.queue import Row
from pipelines.embedding_interface import EmbeddingRequest
from pipelines.interface import Embedded


@dataclass(slots=True)
class _InProgress:
    request: EmbeddingRequest
    vectors: NDArray[np.float32]  # (number of texts, D)
    n_left: int  # texts without a vector


class OpenRequests:
    def __init__(self, dimensions: int, normalizes: bool) -> None:
        """Of the model: how many values its vectors have, and whether they get the length 1 unless a request says."""
        self._dimensions = dimensions
        self._normalizes = normalizes
        self._by_id: dict[str, _InProgress] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, request: EmbeddingRequest) -> None:
        vectors = np.zeros((len(request.texts), self._dimensions), np.float32)
        self._by_id[request.id] = _InProgress(request, vectors, len(request.texts))

    def forget(self, request_id: str) -> bool:
        """Returns whether it was open."""
        return self._by_id.pop(request_id, None) is not None

    def wanted(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Returns the rows whose requests have not ended."""
        return [row for row in rows if row.request_id in self._by_id]

    def put(self, row: Row, vector: NDArray[np.float32]) -> Embedded | None:
        """Adds the vector of one text. Returns the end of its request, which is forgotten, when it was the last."""
        waiting = self._by_id[row.request_id]
        waiting.vectors[row.index] = vector
        waiting.n_left -= 1
        if waiting.n_left:
            return None
        del self._by_id[row.request_id]
        return self._embedded(waiting)

    def _embedded(self, ended: _InProgress) -> Embedded:
        request, vectors = ended.request, ended.vectors
        if request.dimensions is not None:
            vectors = np.ascontiguousarray(vectors[:, : request.dimensions])
        if self._normalizes if request.normalize is None else request.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return Embedded(request.id, vectors, request.n_tokens)
