"""The fields of Anthropic's requests that are not done: which are taken, and which are refused. Constants."""

from __future__ import annotations

from server.api.openai.chat_fields import FieldRules

# Taken with any value: they annotate the request, or concern caches, prices and places of Anthropic's own service.
NOTED = frozenset(
    {
        "metadata", "service_tier", "cache_control", "speed", "inference_geo", "diagnostics", "billing_policy",
        "user_profile_id", "workspace_id", "fallback_credit_token", "betas", "anthropic_beta", "anthropic_version",
    }
)  # fmt: skip

RULES = FieldRules(
    aliases={},
    noted=NOTED,
    neutral={"container": (), "mcp_servers": (), "thread": (), "compaction": ()},
    never=(),
    warnings={
        "context_management": "context_management: the conversation is read as it was sent.",
        "fallbacks": "fallbacks: only the field model is read.",
    },
    reasons={
        "container": "no code is run here. Leave it out.",
        "mcp_servers": "no MCP servers are called here. Leave it out.",
        "thread": "no conversation of /v1 is kept here. Send all messages.",
        "compaction": "conversations are not summarized here. Leave it out.",
    },
)
