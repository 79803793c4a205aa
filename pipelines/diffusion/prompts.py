"""Prompts that the stock call cannot read whole: weighted words, and texts longer than CLIP takes at once. Device thread only.

Where CLIP alone encodes the prompt (Stable Diffusion 1.5, 2, XL and what is made of them) such a prompt is embedded by compel and
handed to the stock call in its place. Everything else, and every plain prompt, goes as it is; where the end is lost, it is said.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import ProcessorMixin

from pipelines.diffusion.prompt_weights import Fragment, fragments

ONE_ENCODER = ("StableDiffusionPipeline", "StableDiffusionPAGPipeline", "LatentConsistencyModelPipeline",
               "AnimateDiffPipeline")  # fmt: skip
TWO_ENCODERS = ("StableDiffusionXLPipeline", "StableDiffusionXLPAGPipeline", "AnimateDiffSDXLPipeline")
NO_LIMIT = 100_000  # tokenizers without one say something astronomical

Texts = Sequence[Fragment]


def read_prompts(pipeline: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments of the stock call, with embeddings where the prompts need them, and what the client should know of it.

    `pipeline` is the request's own copy: for clip skip its text encoder is dressed.
    """
    if arguments.get("clip_skip") and type(pipeline.text_encoder).__name__ == "CLIPTextModel":
        vars(pipeline)["text_encoder"] = Clip(pipeline.text_encoder)
    kind = type(pipeline).__name__
    said: dict[str, Texts] = {
        name: fragments(arguments[name]) for name in ("prompt", "negative_prompt") if name in arguments
    }
    if kind not in (*ONE_ENCODER, *TWO_ENCODERS) or not said or {"prompt_2", "negative_prompt_2"} & arguments.keys():
        return arguments, _losses(pipeline, arguments)
    lengths = {name: _n_tokens(pipeline, texts) for name, texts in said.items()}
    most = pipeline.tokenizer.model_max_length - 2  # its marks of begin and end
    warnings = [
        f"The {name.replace('_', ' ')} has {n} tokens, {most} are read at once: it was read in parts."
        for name, n in lengths.items()
        if n > most
    ]
    if not warnings and all(_plain(texts) for texts in said.values()):
        return {**arguments, **{name: "".join(piece.text for piece in texts) for name, texts in said.items()}}, []
    rest = {name: value for name, value in arguments.items() if name not in (*said, "clip_skip")}
    taken = inspect.signature(type(pipeline).__call__).parameters
    embeddings = _embed(pipeline, kind in TWO_ENCODERS, said, arguments.get("clip_skip"))
    return {**rest, **{name: value for name, value in embeddings.items() if name in taken}}, warnings


def _embed(pipeline: Any, two: bool, said: dict[str, Texts], clip_skip: int | None) -> dict[str, Any]:
    """As the stock `encode_prompt` gives them: only the prompt skips layers, and XL may take nothing for no negative prompt."""
    places = ("", "_2") if two else ("",)
    prompt = [_encode(pipeline, place, two, said["prompt"], clip_skip) for place in places]
    negative = [_encode(pipeline, place, two, said.get("negative_prompt", (Fragment(""),)), None) for place in places]
    embeds, negatives = _same_length(
        torch.cat([e for e, _ in prompt], dim=-1), torch.cat([e for e, _ in negative], dim=-1), pipeline, places, two
    )
    found: dict[str, Any] = {"prompt_embeds": embeds, "negative_prompt_embeds": negatives}
    if two:
        found |= {"pooled_prompt_embeds": prompt[-1][1], "negative_pooled_prompt_embeds": negative[-1][1]}
        if "negative_prompt" not in said and pipeline.config.force_zeros_for_empty_prompt:
            for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
                found[name] = torch.zeros_like(found[name])
    return found


def _encode(
    pipeline: Any, place: str, two: bool, texts: Texts, clip_skip: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(embeddings of each token, of the whole text where the family wants it)"""
    from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType

    tokenizer, encoder = getattr(pipeline, f"tokenizer{place}"), getattr(pipeline, f"text_encoder{place}")
    where = pipeline._execution_device
    if two:
        layer, dropped = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED, clip_skip or 0
    elif clip_skip:
        layer, dropped = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NORMALIZED, clip_skip - 1
    else:
        layer, dropped = ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED, 0
    provider = EmbeddingsProvider(
        tokenizer,
        Clip(encoder, dropped),
        truncate=False,
        returned_embeddings_type=layer,
        device=where,
    )
    words = [_converted(pipeline, piece.text, tokenizer) for piece in texts]
    weights = [piece.weight for piece in texts]
    embeds = provider.get_embeddings_for_weighted_prompt_fragments([words], [weights], device=where).to(where)
    return embeds, provider.get_pooled_embeddings([" ".join(words)], device=where) if place else None


class Clip:
    """CLIP's text model as diffusers and compel know it: transformers 5 took its `text_model` away, whose norm clip skip still wants.

    dropped: last layers whose hidden states are left out, for a library that asks for the last but one.
    """

    def __init__(self, encoder: Any, dropped: int = 0) -> None:
        self._encoder, self._dropped = encoder, dropped

    def __getattr__(self, name: str) -> Any:
        if name == "text_model" and not hasattr(self._encoder, name):
            return self._encoder
        return getattr(self._encoder, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._encoder(*args, **kwargs)
        if self._dropped and output.hidden_states is not None:
            output.hidden_states = output.hidden_states[: -self._dropped]
        return output


def _same_length(
    one: torch.Tensor, other: torch.Tensor, pipeline: Any, places: Sequence[str], two: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The shorter one goes on with what an empty text is, as the stock call pads a short negative prompt."""
    if one.shape[1] == other.shape[1]:
        return one, other
    empty = torch.cat([_encode(pipeline, place, two, (Fragment(""),), None)[0] for place in places], dim=-1)

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        missing = max(one.shape[1], other.shape[1]) - tensor.shape[1]
        return torch.cat([tensor, *[empty] * (missing // empty.shape[1])], dim=1)

    return padded(one), padded(other)


def _converted(pipeline: Any, text: str, tokenizer: Any) -> str:
    """With the further tokens of a textual inversion that takes several."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    return str(convert(text, tokenizer)) if convert else text


def _n_tokens(pipeline: Any, texts: Texts) -> int:
    tokenizer = pipeline.tokenizer
    words = [_converted(pipeline, piece.text, tokenizer) for piece in texts]
    return sum(len(ids) for ids in tokenizer(words, add_special_tokens=False, verbose=False).input_ids)


def _plain(texts: Texts) -> bool:
    return all(piece.weight == 1.0 for piece in texts)


def _losses(pipeline: Any, arguments: dict[str, Any]) -> list[str]:
    """What the stock call will not read of the prompts; where a CLIP reads beside another encoder, the other decides."""
    warnings = []
    limits = _limits(pipeline, arguments)
    for name in ("prompt", "negative_prompt"):
        text = arguments.get(name)
        if not isinstance(text, str):
            continue
        shown = name.replace("_", " ")
        if fragments(text) != (Fragment(text),):
            warnings.append(f"This model reads no weights: the {shown} went to it as it is.")
        over = [(len(tokenizer(text, verbose=False).input_ids) - limit, limit) for tokenizer, limit in limits]
        if over and min(over)[0] > 0:
            n_over, limit = min(over)
            warnings.append(f"The {shown} has {limit + n_over} tokens, this model reads {limit}: the end was cut off.")
    return warnings


def _limits(pipeline: Any, arguments: dict[str, Any]) -> list[tuple[Any, int]]:
    """Each tokenizer whose encoder is there, with the tokens it may give: CLIP's are fixed, others are told by the call."""
    parameter = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
    told = arguments.get("max_sequence_length", parameter.default if parameter else None)
    found = []
    for name, tokenizer in vars(pipeline).items():
        if not name.startswith("tokenizer") or not callable(tokenizer):
            continue
        if isinstance(
            tokenizer, ProcessorMixin
        ):  # of a model that sees: a tokenizer of its own reads the words (Flux 2)
            tokenizer = tokenizer.tokenizer
        if getattr(pipeline, name.replace("tokenizer", "text_encoder"), None) is None:
            continue
        own = getattr(tokenizer, "model_max_length", None)
        clip = "CLIP" in type(tokenizer).__name__
        limit = own if clip or not isinstance(told, int) else told
        if isinstance(limit, int) and limit < NO_LIMIT:
            found.append((clip, tokenizer, limit))
    return [(tokenizer, limit) for clip, tokenizer, limit in found if not clip or all(other for other, _, _ in found)]
