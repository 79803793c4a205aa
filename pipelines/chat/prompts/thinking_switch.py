"""How much a model thinks, as the variables of its chat template. Pure functions; any thread.

Makers name the switch differently: `enable_thinking` (Qwen 3, GLM 4.5), `thinking` (DeepSeek V3.1, Granite),
`reasoning_effort` (gpt-oss, Mistral), `thinking_budget` (Seed-OSS).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from pipelines.chat.templates.chat_template import ChatTemplate
from pipelines.chat_interface import Effort

SWITCHES = ("enable_thinking", "thinking")
EFFORT = "reasoning_effort"
BUDGET = "thinking_budget"
BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 4096}  # tokens, of those Seed-OSS was trained for
# The most tokens to think at each effort where the template itself knows no steps; the model is then made to answer.
MOST_TOKENS: Mapping[Effort, int] = {"none": 0, "minimal": 256, "low": 1024, "medium": 4096}
EFFORTS: Sequence[Effort] = get_args(Effort)
USUAL_EFFORTS: Sequence[Effort] = ("low", "medium", "high")


def variables_of(effort: Effort | None, template: ChatTemplate) -> dict[str, object]:
    """Returns the variables that this template reads, set for the effort."""
    if effort is None:
        return {}
    found: dict[str, object] = {name: effort != "none" for name in SWITCHES if name in template.variables}
    if EFFORT in template.variables:
        found[EFFORT] = _nearest(effort, template)
    if BUDGET in template.variables and effort in BUDGETS:
        found[BUDGET] = BUDGETS[effort]
    return found


def most_tokens(effort: Effort | None, template: ChatTemplate) -> int | None:
    """Returns the most tokens to think at this effort; None: the model keeps to the effort itself, or has no limit."""
    if effort is None or (effort != "none" and {EFFORT, BUDGET} & template.variables):
        return None
    return MOST_TOKENS.get(effort)


def asks_for_none(effort: Effort | None, variables: Mapping[str, object]) -> bool:
    """Returns whether the request switches thinking off. variables: those of the client, which win over the effort."""
    said = [variables[name] is not False for name in SWITCHES if name in variables]
    said += [variables[EFFORT] != "none"] if EFFORT in variables else []
    said += [variables[BUDGET] != 0] if BUDGET in variables else []
    return not all(said) if said else effort == "none"


def has_switch(template: ChatTemplate) -> bool:
    """Returns whether the template itself can keep the model from thinking."""
    return bool({*SWITCHES, BUDGET} & template.variables) or (EFFORT in template.variables and _knows_none(template))


def _knows_none(template: ChatTemplate) -> bool:
    return "none" in template.constants


def _nearest(effort: Effort, template: ChatTemplate) -> Effort:
    """Returns the effort, or the nearest that this template knows. Most know low, medium and high, and name one."""
    if effort == "none":
        return "none" if _knows_none(template) else "low"
    named: Sequence[Effort] = [each for each in EFFORTS if each in template.constants and each != "none"]
    known = named if len(named) > 1 or (named and _knows_none(template)) else USUAL_EFFORTS
    return min(known, key=lambda each: abs(EFFORTS.index(each) - EFFORTS.index(effort)))
