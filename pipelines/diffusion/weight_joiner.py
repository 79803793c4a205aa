"""Joins the weights that compiled blocks of one model name (`joined_products.py`). Device thread only."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pipelines import device
from pipelines.compile_process import reason_of
from pipelines.joined_weights import are_joined, is_plain, join

# Old memory of joined weights that is kept until the device gets it back. To give it back takes tenths of a second.
MOST_FREED_BYTES = 1 << 30

logger = logging.getLogger(__name__)


class WeightJoiner:
    def __init__(self) -> None:
        self.failure = ""  # why weights are joined no more
        self.n_joined = 0  # groups, those joined again included
        self._groups: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by weight: the ids of those it was joined to first
        self._freed_bytes = 0

    def join(self, groups: Iterable[Sequence[Tensor]]) -> bool:
        """Whether any was joined, which takes time. It takes memory for one group more at a time."""
        n_before = self.n_joined
        for weights in groups:
            if not self.failure and not are_joined(weights) and self._is_one_group(weights):
                self._join(weights)
        return self.n_joined > n_before

    def release(self) -> None:
        """Give the device back what joining has freed."""
        if self._freed_bytes:
            self._freed_bytes = 0
            device.release_cache()

    def _join(self, weights: Sequence[Tensor]) -> None:
        try:
            join(weights)
        except Exception as error:
            if device.is_fatal(error):
                raise
            self.failure = reason_of(error)
            logger.warning("weights are not joined", extra={"reason": self.failure})
            return
        self.n_joined += 1
        self._freed_bytes += sum(weight.nbytes for weight in weights)
        if self._freed_bytes >= MOST_FREED_BYTES:
            self.release()

    def _is_one_group(self, weights: Sequence[Tensor]) -> bool:
        """Whether each is a weight of its own that no other kind of call wants joined to others."""
        if not all(is_plain(weight) and weight.is_contiguous() for weight in weights):
            return False
        ids = tuple(map(id, weights))
        return all(self._groups.setdefault(weight, ids) == ids for weight in weights)
