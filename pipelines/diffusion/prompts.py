"""Embeds prompts that the stock call cannot read whole: weighted words, and texts longer than CLIP takes at once.

Where CLIP alone encodes the prompt (Stable Diffusion 1.5, 2, XL and their derivatives, for every task) compel embeds
such a prompt, and the embeddings replace it in the stock call. All other prompts go to the stock call as they are;
where it would cut off the end of one, the client gets a warning. Device thread only.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import ProcessorMixin

from pipelines.diffusion.prompt_weights import Fragment, fragments

# Number of text encoders → the class whose way to encode prompts compel knows. Classes with the same code count too.
ORIGINALS = {"StableDiffusionPipeline": 1, "StableDiffusionXLPipeline": 2}
# Classes that encode a plain prompt in the same way by code that differs: it can also take a prompt for each frame, or
# it counts clips instead of pictures.
LIKE_THEM = {"AnimateDiffVideoToVideoPipeline": 1, "AnimateDiffVideoToVideoControlNetPipeline": 1,
             "AnimateDiffSDXLPipeline": 2}  # fmt: skip
COMMENT = re.compile(r"^\s*#.*\n", re.MULTILINE)
NO_LIMIT = 100_000  # tokenizers without a limit report an astronomical number

MAX_WEIGHT = 1000.0  # of a group; far above what still gives a picture, and far below what overflows float16

Fragments = Sequence[Fragment]


class BadPrompt(Exception):
    """A prompt cannot be read. The message may be shown to the client."""


def read_prompts(pipeline: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of the stock call, with embeddings where the prompts need them, and warnings for the client.

    pipeline: the request's own copy. With clip skip its text encoder is replaced by a `CompatibleClip`. Raises
    `BadPrompt` for a weight above `MAX_WEIGHT`.
    """
    if arguments.get("clip_skip") and type(pipeline.text_encoder).__name__ == "CLIPTextModel":
        vars(pipeline)["text_encoder"] = CompatibleClip(pipeline.text_encoder)
    n_encoders = _n_encoders(type(pipeline))  # type: ignore[arg-type]  # a class is hashable
    prompts: dict[str, Fragments] = {
        name: fragments(arguments[name]) for name in ("prompt", "negative_prompt") if name in arguments
    }
    if not n_encoders or not prompts or {"prompt_2", "negative_prompt_2"} & arguments.keys():
        return arguments, _stock_warnings(pipeline, arguments)
    _check_weights(prompts)
    lengths = {name: _n_tokens(pipeline, prompt) for name, prompt in prompts.items()}
    limit = pipeline.tokenizer.model_max_length - 2  # without the tokens for begin and end
    warnings = [
        f"The {name.replace('_', ' ')} has {n} tokens, {limit} are read at once: it was read in parts."
        for name, n in lengths.items()
        if n > limit
    ]
    if not warnings and all(fragment.weight == 1.0 for prompt in prompts.values() for fragment in prompt):
        return {**arguments, **{name: "".join(f.text for f in prompt) for name, prompt in prompts.items()}}, []
    rest = {name: value for name, value in arguments.items() if name not in (*prompts, "clip_skip")}
    parameters = inspect.signature(type(pipeline).__call__).parameters
    embeddings = _embed(pipeline, n_encoders == 2, prompts, arguments.get("clip_skip"))
    return {**rest, **{name: value for name, value in embeddings.items() if name in parameters}}, warnings


@functools.lru_cache(maxsize=64)
def _n_encoders(cls: Any) -> int:
    """How many text encoders compel reads a prompt with; 0: it does not know how this class reads prompts."""
    import diffusers

    if "prompt_embeds" not in inspect.signature(cls.__call__).parameters:
        return 0
    for name, n_encoders in ORIGINALS.items():
        if _encoding_of(cls) == _encoding_of(getattr(diffusers, name)):
            return n_encoders
    return LIKE_THEM.get(cls.__name__, 0)


def _encoding_of(cls: Any) -> str | None:
    """The code of the class's `encode_prompt`, without comments."""
    encode = getattr(cls, "encode_prompt", None)
    try:
        return COMMENT.sub("", inspect.getsource(encode)) if encode is not None else None
    except (OSError, TypeError):  # a class without a source file
        return None


def _check_weights(prompts: Mapping[str, Fragments]) -> None:
    for name, prompt in prompts.items():
        if any(fragment.weight > MAX_WEIGHT for fragment in prompt):
            raise BadPrompt(f"{name}: the weight of a group must be at most {MAX_WEIGHT:.0f}, nested ones multiplied.")


def _embed(pipeline: Any, two: bool, prompts: Mapping[str, Fragments], clip_skip: int | None) -> dict[str, Any]:
    """Embeddings as the stock `encode_prompt` makes them. two: the pipeline has two text encoders.

    Only the prompt skips layers. SDXL may use zeros when there is no negative prompt.
    """
    suffixes = ("", "_2") if two else ("",)  # of the attributes `tokenizer` and `text_encoder`
    negative_prompt = prompts.get("negative_prompt", (Fragment(""),))
    positive = [_encode(pipeline, suffix, two, prompts["prompt"], clip_skip) for suffix in suffixes]
    negative = [_encode(pipeline, suffix, two, negative_prompt, None) for suffix in suffixes]
    embeds, negative_embeds = _same_length(
        torch.cat([tokens for tokens, _ in positive], dim=-1),
        torch.cat([tokens for tokens, _ in negative], dim=-1),
        pipeline,
        suffixes,
        two,
    )
    found: dict[str, Any] = {"prompt_embeds": embeds, "negative_prompt_embeds": negative_embeds}
    if two:
        found |= {"pooled_prompt_embeds": positive[-1][1], "negative_pooled_prompt_embeds": negative[-1][1]}
        if "negative_prompt" not in prompts and pipeline.config.force_zeros_for_empty_prompt:
            for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
                found[name] = torch.zeros_like(found[name])
    return found


def _encode(
    pipeline: Any, suffix: str, two: bool, prompt: Fragments, clip_skip: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(embeddings of each token, embedding of the whole text for the second encoder of a pipeline with two)"""
    from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType

    tokenizer, encoder = getattr(pipeline, f"tokenizer{suffix}"), getattr(pipeline, f"text_encoder{suffix}")
    device = pipeline._execution_device
    if two:
        layer, n_skipped = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED, clip_skip or 0
    elif clip_skip:
        layer, n_skipped = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NORMALIZED, clip_skip - 1
    else:
        layer, n_skipped = ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED, 0
    provider = EmbeddingsProvider(
        tokenizer,
        CompatibleClip(encoder, n_skipped),
        truncate=False,
        returned_embeddings_type=layer,
        device=device,
    )
    texts = [_with_inversion_tokens(pipeline, fragment.text, tokenizer) for fragment in prompt]
    # compel cannot weigh a fragment without tokens, such as the space between two groups.
    ids = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    read = [(text, fragment.weight) for text, fragment, of_text in zip(texts, prompt, ids, strict=True) if of_text]
    fragment_texts, weights = [text for text, _ in read] or [""], [weight for _, weight in read] or [1.0]
    embeds = provider.get_embeddings_for_weighted_prompt_fragments([fragment_texts], [weights], device=device)
    embeds = embeds.to(device)
    return embeds, provider.get_pooled_embeddings([" ".join(texts)], device=device) if suffix else None


class CompatibleClip:
    """CLIP's text model with the attributes that diffusers and compel expect.

    transformers 5 removed its `text_model`, whose norm is needed for clip skip. n_skipped: last layers whose hidden
    states are left out of the output, for a library that reads the last but one.
    """

    def __init__(self, encoder: Any, n_skipped: int = 0) -> None:
        self._encoder, self._n_skipped = encoder, n_skipped

    def __getattr__(self, name: str) -> Any:
        if name == "text_model" and not hasattr(self._encoder, name):
            return self._encoder
        return getattr(self._encoder, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._encoder(*args, **kwargs)
        if self._n_skipped and output.hidden_states is not None:
            output.hidden_states = output.hidden_states[: -self._n_skipped]
        return output


def _same_length(
    one: torch.Tensor, other: torch.Tensor, pipeline: Any, suffixes: Sequence[str], two: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad the shorter one with the embeddings of an empty text, as the stock call pads a short negative prompt."""
    if one.shape[1] == other.shape[1]:
        return one, other
    empty = torch.cat([_encode(pipeline, suffix, two, (Fragment(""),), None)[0] for suffix in suffixes], dim=-1)

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        missing = max(one.shape[1], other.shape[1]) - tensor.shape[1]
        return torch.cat([tensor, *[empty] * (missing // empty.shape[1])], dim=1)

    return padded(one), padded(other)


def _with_inversion_tokens(pipeline: Any, text: str, tokenizer: Any) -> str:
    """The text in which the name of a textual inversion of several tokens is followed by the others."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    return str(convert(text, tokenizer)) if convert else text


def _n_tokens(pipeline: Any, prompt: Fragments) -> int:
    tokenizer = pipeline.tokenizer
    texts = [_with_inversion_tokens(pipeline, fragment.text, tokenizer) for fragment in prompt]
    return sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False).input_ids)


def _stock_warnings(pipeline: Any, arguments: dict[str, Any]) -> list[str]:
    """Warnings about weights and ends of prompts that the stock call does not read.

    Where several encoders read the prompt, the one that reads the most counts.
    """
    warnings = []
    limits = _token_limits(pipeline, arguments)
    for name in ("prompt", "negative_prompt"):
        text = arguments.get(name)
        if not isinstance(text, str):
            continue
        label = name.replace("_", " ")
        if fragments(text) != (Fragment(text),):
            warnings.append(f"This model reads no weights: the {label} was passed on unchanged.")
        over = [(len(tokenizer(text, verbose=False).input_ids) - limit, limit) for tokenizer, limit in limits]
        if over and min(over)[0] > 0:
            n_over, limit = min(over)
            warnings.append(f"The {label} has {limit + n_over} tokens, this model reads {limit}: the end was cut off.")
    return warnings


def _token_limits(pipeline: Any, arguments: dict[str, Any]) -> list[tuple[Any, int]]:
    """Each tokenizer whose encoder the pipeline has, with the most tokens that are read.

    CLIP's limit is fixed; that of others is an argument of the call. CLIP is left out where another encoder reads too.
    """
    parameter = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
    configured = arguments.get("max_sequence_length", parameter.default if parameter else None)
    found = []
    for name, tokenizer in vars(pipeline).items():
        if not name.startswith("tokenizer") or not callable(tokenizer):
            continue
        if isinstance(
            tokenizer, ProcessorMixin
        ):  # of a vision-language model (Flux 2): its own tokenizer reads the text
            tokenizer = tokenizer.tokenizer
        if getattr(pipeline, name.replace("tokenizer", "text_encoder"), None) is None:
            continue
        is_clip = "CLIP" in type(tokenizer).__name__
        own_limit = getattr(tokenizer, "model_max_length", None)
        limit = own_limit if is_clip or not isinstance(configured, int) else configured
        if isinstance(limit, int) and limit < NO_LIMIT:
            found.append((is_clip, tokenizer, limit))
    only_clip = all(is_clip for is_clip, _, _ in found)
    return [(tokenizer, limit) for is_clip, tokenizer, limit in found if not is_clip or only_clip]
