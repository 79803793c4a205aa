"""A language model with pooling and the layers after it, as one module: token ids in, one vector for each row out.

Device thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.embedding.pooling import pool
from pipelines.embedding_interface import TextTokens


class DenseLayer(nn.Module):
    """A linear layer with an activation after it, in float32."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation

    def forward(self, vectors: Tensor) -> Tensor:
        output: Tensor = self.activation(self.linear(vectors))
        return output


class Encoder(nn.Module):
    def __init__(
        self,
        model: Any,
        *,
        pooling: Sequence[str],
        pools_prompt: bool = True,
        dense: Sequence[DenseLayer] = (),
        normalizes: bool = True,
    ) -> None:
        """pooling: modes of `pooling.py`. pools_prompt: whether the tokens of a prompt count in the pooling.

        normalizes: whether vectors are scaled to length 1 unless a request says otherwise; the lane does that.
        """
        super().__init__()
        self.model = model
        self.pooling = tuple(pooling)
        self.pools_prompt = pools_prompt
        self.dense = nn.ModuleList(dense)
        self.normalizes = normalizes
        config = model.config.get_text_config()
        hidden = int(getattr(config, "hidden_size", None) or config.d_model)
        self.dimensions = dense[-1].linear.out_features if dense else len(pooling) * hidden  # of a vector
        self.n_embeddings = int(model.get_input_embeddings().weight.shape[0])
        pad_id = getattr(model.config, "pad_token_id", None)
        # RoBERTa counts positions by the tokens that are not this one; elsewhere the mask alone matters.
        self.pad_id = pad_id if isinstance(pad_id, int) and 0 <= pad_id < self.n_embeddings else 0

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the language model."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def forward(self, ids: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        """Returns (B, D) float32. ids: (B, T). mask: (B, T), the tokens of the texts. pooled: those that are pooled."""
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors = pool(self.pooling, hidden.float(), pooled)
        for layer in self.dense:
            vectors = layer(vectors)
        return vectors

    def inputs(self, texts: Sequence[TextTokens], width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what `forward` takes, on the host: the texts padded at their ends to `width` tokens."""
        ids = torch.full((len(texts), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros(len(texts), width, dtype=torch.long)
        pooled = torch.zeros(len(texts), width, dtype=torch.long)
        for row, text in enumerate(texts):
            n_tokens = len(text.tokens)
            ids[row, :n_tokens] = torch.tensor(text.tokens)
            mask[row, :n_tokens] = 1
            pooled[row, (0 if self.pools_prompt else text.n_prompt_tokens) : n_tokens] = 1
        return ids, mask, pooled
