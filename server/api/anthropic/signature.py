"""The signature of a thinking block. Pure functions.

Anthropic's proves who wrote the thinking, and carries it where the client asked to have it left out
(`thinking.display: omitted`). Ours carries it in the second case alone, so that the next turn of a tool's use goes on
with the same thoughts.
"""

from __future__ import annotations

import base64

MARK = "agentname."


def signature(thinking: str = "") -> str:
    """thinking: what the block leaves out."""
    return MARK + base64.urlsafe_b64encode(thinking.encode()).decode()


def signed_thinking(value: object) -> str:
    """Returns what the block left out; "" when that is nothing, and for signatures of other services."""
    if not isinstance(value, str) or not value.startswith(MARK):
        return ""
    try:
        return base64.b64decode(value.removeprefix(MARK), altchars=b"-_", validate=True).decode().replace("\0", "")
    except ValueError:  # cut off, or changed
        return ""
