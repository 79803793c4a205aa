"""Sequences that run alone: what a model has read of each, and what the next forward takes. Device thread only."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from pipelines import device
from pipelines.chat_interface import PromptMedia

PAST = ("past_key_values", "cache_params", "state")  # names of outputs that the next forward takes
OF_TOKENS = ("token_type_ids", "mm_token_type_ids")  # arguments with a number for each token


class Sequence(Protocol):
    @property
    def n_unread(self) -> int:
        """Tokens that the next forward reads."""
        ...

    def read(self) -> torch.Tensor:
        """Run the next forward. Returns logits, (1, tokens, vocabulary): of the last token, or of all that it read."""
        ...

    def append(self, token: int) -> None: ...


class TextSequence:
    """Of a model that reads text alone."""

    def __init__(self, model: Any, tokens: list[int]) -> None:
        self._model = model
        self._unread = list(tokens)
        self._past: dict[str, Any] = {}  # a KV cache, the state of recurrent layers, or both; or neither

    @property
    def n_unread(self) -> int:
        return len(self._unread)

    def read(self) -> torch.Tensor:
        unread = torch.tensor([self._unread], device=self._model.device)
        output = self._model(unread, use_cache=True, **self._past)
        self._past = {name: output[name] for name in PAST if output.get(name) is not None}
        logits: torch.Tensor = output.logits
        return logits

    def append(self, token: int) -> None:
        self._unread = [token] if self._past else [*self._unread, token]


class VisionSequence:
    """Of a vision-language model, which is run as its own `generate` does.

    `generate` keeps the positions of each sequence. Those of tokens behind a picture depend on its size (M-RoPE),
    and the module knows them only of the sequence that it has read last.
    """

    def __init__(self, model: Any, tokens: list[int], media: PromptMedia | None, *, scored: bool) -> None:
        """scored: the logits of all tokens of the prompt are wanted."""
        self._model = model
        self._tokens = torch.tensor([tokens], device=model.device)
        self._arguments: dict[str, Any] = {"use_cache": True}
        if not scored and model._supports_logits_to_keep():
            self._arguments["logits_to_keep"] = 1
        if media is not None:
            for name, array in media.inputs.items():
                self._arguments[name] = self._on_device(name, torch.from_numpy(array), len(tokens))
        self._arguments["position_ids"] = model._prepare_position_ids_for_generation(self._tokens, self._arguments)
        self._has_read = False

    @property
    def n_unread(self) -> int:
        return 1 if self._has_read else self._tokens.shape[1]

    def read(self) -> torch.Tensor:
        inputs = self._model.prepare_inputs_for_generation(
            self._tokens,
            next_sequence_length=1 if self._has_read else None,
            is_first_iteration=not self._has_read,
            **self._arguments,
        )
        output = self._model(**inputs, return_dict=True)
        self._arguments = self._model._update_model_kwargs_for_generation(output, self._arguments)
        if not self._has_read:  # the pictures are in the cache now
            self._has_read = True
            kept = ("past_key_values", "position_ids", "use_cache", "logits_to_keep", *OF_TOKENS)
            self._arguments = {name: value for name, value in self._arguments.items() if name in kept}
        logits: torch.Tensor = output.logits
        return logits

    def append(self, token: int) -> None:
        more = torch.tensor([[token]], device=self._tokens.device)
        self._tokens = torch.cat([self._tokens, more], dim=-1)

    def _on_device(self, name: str, values: torch.Tensor, n_tokens: int) -> torch.Tensor:
        if name in OF_TOKENS and values.shape[-1] < n_tokens:  # the beginning of a reply is read in again
            values = torch.nn.functional.pad(values, (0, n_tokens - values.shape[-1]))
        if values.is_floating_point():
            values = values.to(self._model.dtype)
        return device.upload(values, self._model.device)


def reads_pictures(model: Any) -> bool:
    """Whether the model is a language model with a vision encoder."""
    return getattr(model.config, "vision_config", None) is not None


def sequence_of(model: Any, tokens: list[int], media: PromptMedia | None, *, scored: bool) -> Sequence:
    """scored: see `VisionSequence`."""
    if reads_pictures(model):
        return VisionSequence(model, tokens, media, scored=scored)
    return TextSequence(model, tokens)
