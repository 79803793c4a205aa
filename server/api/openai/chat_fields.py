"""The fields of a chat completion that are not done: which are taken, and which values are refused. Tables only.

Clients send the fields of OpenAI and of other servers alike. One that changes the answer is done (`ChatCompletion`) or
refused by name; one that only annotates the request is taken. Any field may have a value that asks for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.shared.field_rules import FieldRules

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
    "store": "store: this server keeps no chat completions; it keeps those of /v1/responses.",
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

CHAT = FieldRules(ALIASES, NOTED, NEUTRAL, NEVER, WARNINGS, REASONS)
