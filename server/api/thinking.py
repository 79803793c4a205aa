"""The variables with which chat templates are told to think. Constants."""

from __future__ import annotations

from collections.abc import Mapping

# Variables that switch thinking on in chat templates, under all names in use. Off is the effort "none".
SWITCHED_ON: Mapping[str, bool] = {"enable_thinking": True, "thinking": True}
