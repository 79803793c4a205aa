"""Rules out the tokens that the grammars of some chats do not allow, before the next tokens are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.chat.sequence import ChatSequence
from pipelines.device import pinned, upload

BITS = 32  # of a word


class TokenMasks:
    """The masks of the chats of one batch that have a grammar. The rows of the others are not touched."""

    def __init__(self, chats: Sequence[ChatSequence], vocabulary: int, device: torch.device) -> None:
        rows = [row for row, chat in enumerate(chats) if chat.constrained is not None]
        self._chats = [chats[row] for row in rows]
        self._vocabulary, self._device = vocabulary, device
        self._rows = None if len(rows) == len(chats) else upload(torch.tensor(rows), device)  # None: all
        # The host writes this again only when the next tokens are due, so that the device has read it by then.
        self._host = pinned((len(rows), -(-vocabulary // BITS)), torch.int32, device)
        self._words = self._host.numpy().view(np.uint32)
        self._bits = upload(torch.arange(BITS, dtype=torch.int32), device)

    @staticmethod
    def needed(chats: Sequence[ChatSequence]) -> bool:
        return any(chat.constrained is not None for chat in chats)

    def apply(self, logits: Tensor) -> None:
        """Change the logits in place. logits: (N, V) float32; on a GPU they may still be computed meanwhile."""
        for chat, words in zip(self._chats, self._words, strict=True):
            chat.write_mask(words)
        words = self._host.to(self._device, non_blocking=True)
        ruled_out = ((words[:, :, None] >> self._bits) & 1).view(len(words), -1)[:, : self._vocabulary] == 0
        if self._rows is None:
            logits.masked_fill_(ruled_out, -torch.inf)
        else:
            logits.index_copy_(0, self._rows, logits.index_select(0, self._rows).masked_fill_(ruled_out, -torch.inf))
