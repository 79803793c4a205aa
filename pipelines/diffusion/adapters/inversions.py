"""Lets single requests use the words of textual inversions. Device thread only.

Loaded by the library, an inversion would change the tokenizer and the text encoder of all requests. Here a request gets
a tokenizer of its own that knows the words, and hooks on the encoder's input embeddings, which put the vectors of these
words into its own forwards (`batching.module_state` keeps hooks apart).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipelines.diffusion.adapters.lent_modules import BadAdapter

MAX_TOKENIZERS = 8  # copies that are kept, of a few megabytes of host memory each
# Tensors of an inversion for SDXL, which has two text encoders; of another file the only tensor is for the first.
ENCODERS = {"clip_l": "", "clip_g": "_2"}


class Inversion(nn.Module):
    """A word, and the vectors that it stands for in each text encoder."""

    called = None  # pipelines call no module of it

    def __init__(self, name: str, word: str, vectors: Mapping[str, torch.Tensor]) -> None:
        """name: of the adapter, for messages.

        vectors: by the ending of the encoder's name ("", "_2"), (number of vectors, dimensions).
        """
        super().__init__()
        self.name = name
        self.word = word
        self.suffixes = tuple(vectors)
        for suffix, found in vectors.items():
            self.register_buffer(f"vectors_of{suffix}", found)

    def vectors(self, suffix: str) -> torch.Tensor:
        found: torch.Tensor = getattr(self, f"vectors_of{suffix}")
        return found


def inversion_of(name: str, word: str, tensors: Mapping[str, torch.Tensor]) -> Inversion:
    """tensors: of a file. Raises `BadAdapter` for a file that is no textual inversion."""
    two = tensors.keys() == ENCODERS.keys()
    if not two and len(tensors) != 1:
        raise BadAdapter(f"{name} is no textual inversion: such a file has one tensor, or clip_l and clip_g.")
    found = {ENCODERS[name]: tensor for name, tensor in tensors.items()} if two else {"": next(iter(tensors.values()))}
    if any(tensor.ndim not in (1, 2) or not tensor.is_floating_point() for tensor in found.values()):
        raise BadAdapter(f"{name} is no textual inversion: its tensor is no list of vectors.")
    return Inversion(name, word, {suffix: tensor.reshape(-1, tensor.shape[-1]) for suffix, tensor in found.items()})


class InversionWords:
    """The tokenizers with the words of inversions, of one lane."""

    def __init__(self) -> None:
        # (tokenizer, inversions), by their ids → a tokenizer with their words, its vectors, and what has these ids
        self._kept: OrderedDict[tuple[int, ...], tuple[Any, torch.Tensor, Any]] = OrderedDict()

    def use(self, own: Any, inversions: Sequence[Inversion]) -> None:
        """Let the prompts of a request use the words, from within its task. own: its copy of the pipeline.

        Raises `BadAdapter`.
        """
        for suffix in dict.fromkeys(suffix for inversion in inversions for suffix in inversion.suffixes):
            tokenizer = getattr(own, f"tokenizer{suffix}", None)
            encoder = getattr(own, f"text_encoder{suffix}", None)
            if tokenizer is None or encoder is None or not hasattr(own, "load_textual_inversion"):
                raise BadAdapter(f"The adapter {inversions[0].name} cannot be used: this model takes no such words.")
            fitting = [inversion for inversion in inversions if suffix in inversion.suffixes]
            with_words, vectors = self._with_words(tokenizer, fitting, suffix, _dimensions(encoder))
            setattr(own, f"tokenizer{suffix}", with_words)
            _watch(encoder.get_input_embeddings(), len(tokenizer), vectors)

    def forget(self, modules: Collection[object]) -> None:
        """Let go of all that knows one of these inversions; other modules are ignored."""
        gone = set(map(id, modules))
        self._kept = OrderedDict((key, kept) for key, kept in self._kept.items() if gone.isdisjoint(key[1:]))

    def _with_words(
        self, tokenizer: Any, inversions: Sequence[Inversion], suffix: str, dimensions: int
    ) -> tuple[Any, torch.Tensor]:
        """A copy of the tokenizer, and the vectors of the ids that it has more: (new ids, dimensions)."""
        key = id(tokenizer), *map(id, inversions)
        if key not in self._kept:
            self._kept[key] = *_taught(tokenizer, inversions, suffix, dimensions), (tokenizer, inversions)
            while len(self._kept) > MAX_TOKENIZERS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        copied, vectors, _ = self._kept[key]
        return copied, vectors


def _taught(tokenizer: Any, inversions: Sequence[Inversion], suffix: str, dimensions: int) -> tuple[Any, torch.Tensor]:
    copied, known, rows = copy.deepcopy(tokenizer), tokenizer.get_vocab(), list[torch.Tensor]()
    for inversion in inversions:
        vectors = inversion.vectors(suffix)
        if vectors.shape[1] != dimensions:
            raise BadAdapter(
                f"The adapter {inversion.name} was made for another model: its vectors have {vectors.shape[1]} "
                f"numbers, those of this model {dimensions}."
            )
        # As diffusers names the vectors of a word: its `maybe_convert_prompt` puts all of them where the word is.
        words = [inversion.word, *(f"{inversion.word}_{i}" for i in range(1, len(vectors)))]
        if any(word in known for word in words) or copied.add_tokens(words) != len(words):
            raise BadAdapter(f"The adapter {inversion.name} has the name of a word that this model knows already.")
        rows.append(vectors)
    return copied, torch.cat(rows)


def _dimensions(encoder: Any) -> int:
    return int(encoder.get_input_embeddings().weight.shape[1])


def _watch(embeddings: nn.Module, first_id: int, vectors: torch.Tensor) -> None:
    """Let ids from `first_id` on stand for these vectors. The ids of one forward pass from one hook to the other."""
    new_ids: list[torch.Tensor] = []

    def before(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        ids, *rest = args
        new_ids.append(ids - first_id)
        return (ids.masked_fill(ids >= first_id, 0), *rest)

    def after(_: nn.Module, args: object, embedded: torch.Tensor) -> torch.Tensor:
        which = new_ids.pop()
        rows = vectors.to(embedded)[which.clamp(min=0)]
        return torch.where((which >= 0)[..., None], rows, embedded)

    embeddings.register_forward_pre_hook(before)
    embeddings.register_forward_hook(after)
