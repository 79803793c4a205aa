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
        self._host = pinned((len(rows), -(-vocabulary // BITS) * 4), torch.uint8, device)
        self._words = self._host.numpy().view(np.uint32)
        self._terms = upload(_terms_of_bytes(), device)

    @staticmethod
    def needed(chats: Sequence[ChatSequence]) -> bool:
        return any(chat.constrained is not None for chat in chats)

    def apply(self, logits: Tensor) -> None:
        """Change the logits in place. logits: (N, V) float32; on a GPU they may still be computed meanwhile."""
        for chat, words in zip(self._chats, self._words, strict=True):
            chat.write_mask(words)
        masks = self._host.to(self._device, non_blocking=True)
        # Added, because that is ten times as fast as filling in what is ruled out.
        terms = self._terms.index_select(0, masks.view(-1).int()).view(len(masks), -1)[:, : self._vocabulary]
        if self._rows is None:
            logits.add_(terms)
        else:
            logits.index_add_(0, self._rows, terms)


def _terms_of_bytes() -> Tensor:
    """What each byte of a mask adds to the logits of its eight tokens: 0, or minus infinity. (256, 8) float32."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(np.where(bits, 0.0, -np.inf).astype(np.float32))
