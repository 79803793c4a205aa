"""The fields of Anthropic's requests that are not done: which are taken, and which are refused. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.shared.field_rules import FieldRules, asks_for_nothing, sort_out
from server.errors import BadRequest

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
    neutral={"container": (), "mcp_servers": (), "compaction": ()},
    never=(),
    warnings={
        "context_management": "context_management: the conversation is read as it was sent.",
        "fallbacks": "fallbacks: only the field model is read.",
    },
    reasons={
        "container": "no code is run here. Leave it out.",
        "mcp_servers": "no MCP servers are called here. Leave it out.",
        "compaction": "conversations are not summarized here. Leave it out.",
    },
)


def sorted_fields(raw: Mapping[str, Any], done: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the fields to read, and warnings for the client. Raises `BadRequest`.

    A conversation that the server shall hold is refused with the code by which Anthropic's clients send all of it.
    """
    if not asks_for_nothing(raw.get("thread")):
        message = "thread is not supported: no conversation is kept here. Send all messages."
        raise BadRequest(message, param="thread", code="thread_unsupported_request")
    return sort_out(raw, done, RULES)
