"""Log probabilities of tokens, as the model itself gives them: before bias, penalties, temperature and cuts.

They stay on the device until the tokens are fetched, and each chat gets the same values whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipelines.chat.sampling.likeliest import Likeliest, likeliest_tokens
from pipelines.chat.sequence import ChatSequence
from pipelines.device import upload


class Logprobs:
    """Reads the log probabilities of the chats of one batch that asked for them."""

    def __init__(self, chats: Sequence[ChatSequence], vocabulary: int, device: torch.device) -> None:
        rows = [row for row, chat in enumerate(chats) if chat.request.n_logprobs is not None]
        self._rows = None if len(rows) == len(chats) else upload(torch.tensor(rows), device)  # None: all
        self._wanted = [(chats[row].id, min(chats[row].request.n_logprobs or 0, vocabulary)) for row in rows]
        self._n = max(n for _, n in self._wanted)

    def read(self, logits: Tensor) -> Tensor:
        """Natural logarithms of the probabilities of all tokens. logits: (N, V) float32. Returns (L, V), new."""
        return self._own(logits).log_softmax(-1)

    def begin_copy(self, logprobs: Tensor, tokens: Tensor) -> Tensor:
        """Copy the log probabilities of the chosen tokens, and of the likeliest ones, to the host, without waiting.

        logprobs: (L, V), of `read`; tokens: (N,) int64. Returns what `take` reads once the device has come so far.
        """
        chosen = logprobs.gather(-1, self._own(tokens).clamp(min=0)[:, None]).double()
        if self._n:
            likeliest = likeliest_tokens(logprobs, self._n)
            chosen = torch.cat([chosen, logprobs.gather(-1, likeliest).double(), likeliest.double()], -1)
        return chosen.to("cpu", non_blocking=True)

    def take(self, copied: Tensor) -> Mapping[str, tuple[float, Likeliest]]:
        """For each chat, the log probability of its token, and as many of the likeliest as it asked for."""
        taken = {}
        for (chat_id, n), row in zip(self._wanted, copied.tolist(), strict=True):
            values, tokens = row[1 : 1 + n], row[1 + self._n : 1 + self._n + n]
            taken[chat_id] = row[0], tuple(zip(map(int, tokens), values, strict=True))
        return taken

    def _own(self, values: Tensor) -> Tensor:
        return values if self._rows is None else values.index_select(0, self._rows)
