"""Reads how a language model's maker wants it sampled: generation_config.json, or a GGUF's metadata. Any thread.

Values that no request could have are left out, and named in the model's notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.files.gguf_header import read_gguf_header
from models.files.json_files import read_config

NAME = "generation_config.json"
# Key → default of a request, its type, its smallest and its largest value; as requests may have them.
KEYS: Mapping[str, tuple[str, type, float, float]] = {
    "temperature": ("temperature", float, 0, 2),
    "top_p": ("top_p", float, 1e-6, 1),
    "top_k": ("top_k", int, 0, 2**31 - 1),
    "min_p": ("min_p", float, 0, 1),
    "repetition_penalty": ("repetition_penalty", float, 1e-6, 10),
    "max_new_tokens": ("max_tokens", int, 1, 2**31 - 1),
}
GGUF_KEYS = {  # of llama.cpp → ours
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
WHEN_SAMPLED = ("temperature", "top_p", "top_k", "min_p")


def sampling_defaults(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns fields of `Defaults`, and sentences about values that were left out. path: a folder or a GGUF."""
    if path.is_file():
        metadata = read_gguf_header(path).metadata
        return read_sampling({ours: metadata[key] for key, ours in GGUF_KEYS.items() if key in metadata})
    return read_sampling(read_config(path / NAME)) if (path / NAME).is_file() else ({}, ())


def read_sampling(config: Mapping[str, object]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Reads as transformers does: `do_sample` false is greedy, whatever else is there; true means temperature 1.

    Older files have no `do_sample`, but a temperature that is meant.
    """
    found: dict[str, Any] = {}
    notes: list[str] = []
    for key, (name, kind, low, high) in KEYS.items():
        if (value := config.get(key)) is None:
            continue
        value = 0 if (key, value) == ("top_k", -1) else value  # both mean all
        is_number = type(value) is int or (type(value) is float and (kind is float or value.is_integer()))
        if is_number and low <= value <= high:  # type: ignore[operator]  # a number
            found[name] = kind(value)
        else:
            notes.append(f"{NAME} has a {key} that no request may have; it is not used.")
    if config.get("do_sample") is False:
        found = {name: value for name, value in found.items() if name not in WHEN_SAMPLED}
    elif config.get("do_sample") is True:
        found.setdefault("temperature", 1.0)
    return found, tuple(notes)
