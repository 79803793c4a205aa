"""The fields of a chat completion that are not done: which are taken, and which values are refused. Pure functions.

Clients send the fields of OpenAI and of other servers alike. One that changes the answer is done (`ChatCompletion`) or
refused by name; one that only annotates the request is taken. Any field may have a value that asks for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from server.api.schemas import unknown_field
from server.errors import BadRequest

# Other servers' names of fields that are done.
ALIASES: Mapping[str, str] = {
    "repeat_penalty": "repetition_penalty", "n_predict": "max_tokens", "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens", "random_seed": "seed", "thinking_token_budget": "thinking_budget",
    "thinking_budget_tokens": "thinking_budget", "reasoning_budget": "thinking_budget",
}  # fmt: skip

# Taken with any value: they annotate the request, concern caches, queues and progress reports of other servers, or
# belong to a method that its own field switches on.
NOTED = frozenset(
    {
        "user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "service_tier", "prediction", "priority", "request_id", "rid", "user_id", "session_id",
        "cache_prompt", "cache_salt", "cache_reuse", "n_cache_reuse", "n_keep", "n_discard", "id_slot", "slot_id",
        "kv_transfer_params", "timings_per_token", "return_progress", "draft_model", "ttl", "keep_alive",
        "mirostat_tau", "mirostat_eta", "dry_base", "dry_allowed_length", "dry_penalty_last_n",
        "dry_sequence_breakers", "xtc_threshold", "dynatemp_exponent", "length_penalty", "early_stopping",
        "spaces_between_special_tokens", "guided_decoding_backend", "guided_whitespace_pattern",
        "mm_processor_kwargs", "media_io_kwargs", "min_keep", "provider", "route", "transforms", "usage", "trace",
        "tool_stream", "parse_tool_calls",
    }
)  # fmt: skip

# Taken with these values only, besides those of `asks_for_nothing`: the first one is what this server does anyway.
# Where that is true, false asks for something.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "modalities": (["text"],), "audio": (), "verbosity": ("medium",), "moderation": (), "best_of": (1,),
    "use_beam_search": (),
    "typical_p": (1,), "typ_p": (1,), "tfs_z": (1,), "top_a": (0,), "top_n_sigma": (-1, 0), "mirostat": (0,),
    "mirostat_mode": (0,), "dry_multiplier": (0,), "xtc_probability": (0,), "dynatemp_range": (0,),
    "epsilon_cutoff": (0,), "eta_cutoff": (0,), "smoothing_factor": (0,), "no_repeat_ngram_size": (0,),
    "include_stop_str_in_output": (), "no_stop_trim": (), "skip_special_tokens": (True,), "echo": (),
    "truncate_prompt_tokens": (), "prompt_logprobs": (), "allowed_token_ids": (), "bad_words": (), "documents": (),
    "chat_template": (), "logits_processors": (), "lora": (),
    "lora_path": (), "plugins": (), "safe_prompt": (), "enable_search": (), "post_sampling_probs": (),
    "separate_reasoning": (True,), "stream_reasoning": (True,), "reasoning_format": ("auto", "deepseek", "parsed"),
    "n_probs": (0,), "watermark": (), "data_sources": (), "add_special_tokens": (),
}  # fmt: skip

# Refused: an empty object switches them on.
NEVER = frozenset({"web_search_options"})

# Taken, with this warning in the reply when the value asks for something.
WARNINGS: Mapping[str, str] = {
    "store": "store: this server keeps no conversation of /v1.",
    "samplers": "samplers: the order of the sampling steps is fixed.",
    "repeat_last_n": "repeat_last_n: the repetition penalty covers prompt and reply.",
    "penalty_last_n": "penalty_last_n: the repetition penalty covers prompt and reply.",
    "num_ctx": "num_ctx: the length of the context is the model's.",
    "models": "models: only the field model is read.",
    "return_token_ids": "return_token_ids: no token ids are reported.",
    "return_tokens": "return_tokens: no token ids are reported.",
    "return_tokens_as_token_ids": "return_tokens_as_token_ids: tokens are reported as text.",
    "return_hidden_states": "return_hidden_states: no hidden states are reported.",
}

REASONS: Mapping[str, str] = {
    "audio": "replies are text. Leave it out.",
}


@dataclass(frozen=True, slots=True)
class FieldRules:
    """What happens to the fields of one route that are not done; the tables above explain themselves."""

    aliases: Mapping[str, str]
    noted: Collection[str]
    neutral: Mapping[str, tuple[Any, ...]]
    never: Collection[str]
    warnings: Mapping[str, str]
    reasons: Mapping[str, str]


CHAT = FieldRules(ALIASES, NOTED, NEUTRAL, NEVER, WARNINGS, REASONS)


def asks_for_nothing(value: object) -> bool:
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def sort_out(
    raw: Mapping[str, Any], done: Mapping[str, Any], rules: FieldRules = CHAT
) -> tuple[dict[str, Any], list[str]]:
    """Returns the fields to read, under the names of `done`, and warnings for the client. Raises `BadRequest`.

    done: by the name of each field that is done, anything.
    """
    fields: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in raw.items():
        if name in done or name in rules.aliases:
            _put(fields, name, value, rules.aliases)
        elif name in rules.warnings:
            if not asks_for_nothing(value):
                warnings.append(rules.warnings[name])
        elif name not in rules.noted:
            _check_neutral(name, value, done, rules)
    return fields, warnings


def _put(fields: dict[str, Any], name: str, value: Any, aliases: Mapping[str, str]) -> None:
    """Adds a field that may be given under two names."""
    own_name = aliases.get(name, name)
    if value is None or (name in aliases and asks_for_nothing(value)):
        return
    if own_name in fields and not same_json(fields[own_name], value):
        raise BadRequest(f"{own_name} is given twice, also as another server's name of it, and differs.", param=name)
    fields[own_name] = value


def _check_neutral(name: str, value: object, done: Mapping[str, Any], rules: FieldRules) -> None:
    neutral = rules.neutral.get(name, ())
    asks = (
        not asks_for_nothing(value)
        or (value is False and any(other is True for other in neutral))
        or (value == {} and name in rules.never)
    )
    if not asks or any(same_json(value, other) for other in neutral):
        return
    if name not in rules.neutral and name not in rules.never:
        raise unknown_field(done, name)
    only = f"only {json.dumps(neutral[0])} is. Leave it out." if neutral else "leave it out."
    raise BadRequest(f"{name} is not supported: {rules.reasons.get(name, only)}", param=name)


def same_json(value: object, other: object) -> bool:
    """Whether two JSON values are equal; 1 and 1.0 are, 1 and true are not."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
