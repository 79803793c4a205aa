"""What a client's word about thinking means for the model. Constants and pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.interface import Effort

# The most tokens that a model may think at each effort; it is then made to answer. This makes efforts work on models
# whose chat template knows none. High has no limit.
THINKING_TOKENS: Mapping[Effort, int] = {"none": 0, "minimal": 256, "low": 1024, "medium": 4096}

# Variables that switch thinking on in chat templates, under all names in use. Off is the effort "none".
SWITCHED_ON: Mapping[str, bool] = {"enable_thinking": True, "thinking": True}
