"""The `options` of Ollama's requests: how the next token is chosen, and what ends a reply. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.openai.sampling_fields import SamplingFields, read_sampling
from server.api.schemas import read_body
from server.errors import BadRequest

# Ollama's names of the options that are done, and ours.
DONE: Mapping[str, str] = {
    "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "seed": "seed", "stop": "stop",
    "repeat_penalty": "repetition_penalty", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}  # fmt: skip
NO_LIMIT = "num_predict"  # is done too; below 1 it means no limit
# Taken: how Ollama loads a model, which has no effect here.
LOADING = frozenset(
    {
        "numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap",
        "use_mlock", "embedding_only", "num_thread", "num_keep", "draft_num_predict",
    }
)  # fmt: skip
WARNINGS: Mapping[str, str] = {
    "num_ctx": "num_ctx: the length of the context is the model's.",
    "repeat_last_n": "repeat_last_n: the penalties cover prompt and reply.",
    "penalize_newline": "penalize_newline: line breaks are as other tokens.",
} | {
    name: f"{name}: this way of sampling is not done."
    for name in ("mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "typical_p")
}
UNKNOWN = "options: those that are not known were left out."


def read_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns fields of `ChatInput`, and warnings for the client. Raises `BadRequest`."""
    given = {name: value for name, value in options.items() if value is not None}
    limit = given.pop(NO_LIMIT, None)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit != int(limit)):
        raise BadRequest("options.num_predict must be a whole number; below 1 it means no limit.", param="options")
    try:
        body = read_body(SamplingFields, {own: given[name] for name, own in DONE.items() if name in given})
        fields = read_sampling(body, None if limit is None or limit < 1 else int(limit))
    except BadRequest as error:
        text = error.message.replace("repetition_penalty", "repeat_penalty")
        raise BadRequest(f"options.{text}", param="options") from None
    warnings = [text for name, text in WARNINGS.items() if name in given]
    if not given.keys() <= {*DONE, *LOADING, *WARNINGS}:
        warnings.append(UNKNOWN)
    return fields, warnings
