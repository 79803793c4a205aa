"""Tests, when an embedding model is loaded, whether texts that share a forward get the vectors that they get alone.

Device thread only. A model that does not keep its rows apart, or reads its padding, runs one text at a time: slower,
but right.
"""

from __future__ import annotations

import torch

from pipelines import device
from pipelines.batching.merging import difference
from pipelines.batching.proof import SAME_WIDTH, TOLERANCE
from pipelines.embedding.encoder import Encoder
from pipelines.embedding_interface import TextTokens
from pipelines.interface import Merging

LENGTHS = (3, 9, 21)  # the shorter ones are padded to the longest


@torch.inference_mode()
def prove(encoder: Encoder) -> Merging:
    """Returns "on" when the vectors of padded rows are those of single ones, and other rows change nothing in them.

    Raises errors that prove nothing about the model: out of memory, or a lost device.
    """
    texts = [_text(length, encoder.n_embeddings) for length in LENGTHS]
    others = [_text(length, encoder.n_embeddings, shift=11) for length in LENGTHS]
    width, allowed = max(LENGTHS), TOLERANCE.get(encoder.dtype, 0.0)
    try:
        alone = [_vectors(encoder, [text], len(text.tokens))[0] for text in texts]
        together = _vectors(encoder, texts, width)
        in_other_company = _vectors(encoder, [texts[0], *others[1:]], width)
    except Exception as error:  # a model that raises any other error with padded rows cannot be batched
        if device.is_fatal(error) or device.is_out_of_memory(error):
            raise
        return "off"
    agree = all(difference(one, two) <= allowed for one, two in zip(alone, together, strict=True))
    return "on" if agree and difference(together[0], in_other_company[0]) <= allowed * SAME_WIDTH else "off"


def _text(length: int, n_embeddings: int, shift: int = 0) -> TextTokens:
    """Tokens from all over the vocabulary."""
    return TextTokens(tuple((i * 104_729 + length + shift) % n_embeddings for i in range(length)))


def _vectors(encoder: Encoder, texts: list[TextTokens], width: int) -> torch.Tensor:
    vectors: torch.Tensor = encoder(*(tensor.to(encoder.device) for tensor in encoder.inputs(texts, width)))
    return torch.nn.functional.normalize(vectors, dim=-1)  # so that the tolerance is relative
