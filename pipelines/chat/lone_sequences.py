"""Sequences that run alone: what a model has read of each, and what the next forward takes. Device thread only."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch

from pipelines import device
from pipelines.chat_interface import PromptMedia

PAST = ("past_key_values", "cache_params", "state")  # names of outputs that the next forward takes
OF_TOKENS = ("token_type_ids", "mm_token_type_ids")  # arguments with a number for each token
KEPT = ("past_key_values", "position_ids", "use_cache", "logits_to_keep", *OF_TOKENS)  # behind the first forward


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
        self._media = media
        self._scored = scored
        self._tokens = torch.tensor([tokens])
        self._arguments: dict[str, Any] = {}  # of the next forward; nothing has been read while there are none

    @property
    def n_unread(self) -> int:
        return 1 if self._arguments else self._tokens.shape[1]

    def read(self) -> torch.Tensor:
        is_first = not self._arguments
        if is_first:
            self._tokens = device.upload(self._tokens, self._model.device)
            self._arguments = self._first_arguments()
        inputs = self._model.prepare_inputs_for_generation(
            self._tokens,
            next_sequence_length=None if is_first else 1,
            is_first_iteration=is_first,
            **self._arguments,
        )
        output = self._model(**inputs, return_dict=True)
        arguments = self._model._update_model_kwargs_for_generation(output, self._arguments)
        self._arguments = {name: value for name, value in arguments.items() if name in KEPT}  # the cache has the rest
        logits: torch.Tensor = output.logits
        return logits

    def _first_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"use_cache": True}
        if not self._scored and self._model._supports_logits_to_keep():
            arguments["logits_to_keep"] = 1
        for name, array in self._media.inputs.items() if self._media is not None else ():
            arguments[name] = self._on_device(name, torch.from_numpy(array))
        if "position_ids" in inspect.signature(self._model.forward).parameters:
            positions = self._model._prepare_position_ids_for_generation(self._tokens, arguments)
            arguments["position_ids"] = positions
        return arguments

    def append(self, token: int) -> None:
        more = torch.tensor([[token]], device=self._tokens.device)
        self._tokens = torch.cat([self._tokens, more], dim=-1)

    def _on_device(self, name: str, values: torch.Tensor) -> torch.Tensor:
        n_tokens = self._tokens.shape[1]
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
