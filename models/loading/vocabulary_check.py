"""Refuses a tokenizer that can write tokens for which its model has no embedding. Device thread only.

On a GPU a single such token ends the process: the look-up fails there in a way that no later call survives.
"""

from __future__ import annotations

from typing import Any

from models.checkpoint.single_file import CLIPS
from models.errors import BadModel


def check_vocabularies(pipeline: Any) -> list[str]:
    """Checks each tokenizer of a pipeline against its text encoder, as `check_vocabulary` does."""
    notes: list[str] = []
    for name, tokenizer in pipeline.components.items():
        encoder = getattr(pipeline, name.replace("tokenizer", "text_encoder"), None)
        if name.startswith("tokenizer") and tokenizer is not None and encoder is not None:
            tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a vision-language processor
            notes += check_vocabulary(name, tokenizer, encoder)
            _check_marks(name, tokenizer, encoder)
            _check_length(name, tokenizer, encoder)
    return notes


def _check_marks(name: str, tokenizer: Any, encoder: Any) -> None:
    """Raises `BadModel` when a token that frames or pads every prompt has no embedding."""
    n_rows = embedding_rows(encoder)
    for mark in ("bos_token", "eos_token", "pad_token"):
        number = getattr(tokenizer, f"{mark}_id", None)
        if n_rows is not None and isinstance(number, int) and number >= n_rows:
            raise BadModel(f"{name}: its {mark} is number {number}, its model has embeddings for {n_rows}")


def _check_length(name: str, tokenizer: Any, encoder: Any) -> None:
    """Raises `BadModel` when a prompt for CLIP would be padded to more tokens than CLIP has positions for."""
    if type(encoder).__name__ not in CLIPS:
        return
    n_positions, length = encoder.config.max_position_embeddings, getattr(tokenizer, "model_max_length", None)
    if not isinstance(length, int | float) or length > n_positions:
        raise BadModel(f"{name}: tokenizer_config.json sets no model_max_length of at most {n_positions} tokens")


def check_vocabulary(name: str, tokenizer: Any, model: Any, *, is_guarded: bool = False) -> list[str]:
    """Raises `BadModel` for the vocabulary of a pipeline that is larger than its text encoder's embeddings.

    Published checkpoints have tokens beyond them that were added and never trained, such as one for padding. No text
    is cut into those unless it spells them out, so they only give a sentence for the model's notes. A chat lane looks
    at the tokens of each prompt itself (`is_guarded`).
    """
    n_rows = embedding_rows(model)
    if n_rows is None or not hasattr(tokenizer, "vocab_size"):
        return []
    if tokenizer.vocab_size > n_rows and not is_guarded:
        raise BadModel(f"{name} has {tokenizer.vocab_size} tokens, its model has embeddings for {n_rows}")
    n_beyond = len(tokenizer) - n_rows
    return (
        [f"{name} has {n_beyond} token{'s' if n_beyond > 1 else ''} for which its model has no embedding."]
        if n_beyond > 0
        else []
    )


def embedding_rows(model: Any) -> int | None:
    """Returns the number of tokens that the model knows, None for a module that does not tell."""
    try:
        rows = model.get_input_embeddings().weight.shape[0]
    except (AttributeError, NotImplementedError):
        return None
    return int(rows)
