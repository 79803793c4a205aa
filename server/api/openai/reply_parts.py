"""What replies of several routes under /v1 have in common: the usage, warnings, log probabilities. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipelines.chat_interface import TokenLogprobs, TokenText
from server.api.wire import JsonObject
from server.service.chat_input import ChatReply

LEAST_LOGPROB = -9999.0  # OpenAI's value for a token that is all but impossible; JSON has no infinity


def usage(reply: ChatReply) -> JsonObject:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": reply.thinking_tokens},
    }


def warnings(reply: ChatReply) -> JsonObject:
    return {"warnings": list(reply.warnings)} if reply.warnings else {}


def token_logprobs(tokens: Iterable[TokenLogprobs]) -> list[JsonObject]:
    return [{**_token(token.chosen), "top_logprobs": list(map(_token, token.likeliest))} for token in tokens]


def token_name(token: TokenText) -> str:
    """Returns its text. A token without text is part of a character: it is shown by its bytes, as OpenAI does."""
    return token.text or "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.utf8)


def json_logprob(token: TokenText) -> float:
    return token.logprob if math.isfinite(token.logprob) else LEAST_LOGPROB


def _token(token: TokenText) -> JsonObject:
    return {"token": token_name(token), "logprob": json_logprob(token), "bytes": list(token.utf8)}
