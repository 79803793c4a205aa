"""The fields of a response that are not done: which are taken, and which values are refused. Tables only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.shared.field_rules import FieldRules

# Taken with any value: they annotate the request, or limit what this server does not do.
NOTED = frozenset(
    {
        "user", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "service_tier", "max_tool_calls", "client_metadata", "priority", "request_id", "cache_salt",
        "mm_processor_kwargs",
    }
)  # fmt: skip

# Taken with these values only, besides those that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "background": (), "conversation": (), "prompt": (), "context_management": (), "moderation": (),
    "verbosity": ("medium",), "modalities": (["text"],),
}  # fmt: skip

REASONS: Mapping[str, str] = {
    "background": "a response is made while its client waits. Leave it out.",
    "conversation": "use previous_response_id, or send the whole conversation as input.",
    "prompt": "this server keeps no prompts. Send instructions and input.",
    "context_management": "leave it out, or send truncation: auto.",
}

RESPONSES = FieldRules(aliases={}, noted=NOTED, neutral=NEUTRAL, never=(), warnings={}, reasons=REASONS)
