"""How much a model may think, from the many fields in which clients say so. Pure functions.

Every field names a strength, switches thinking on or off, or limits its tokens. They must agree with each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from pipelines.chat_interface import Effort
from server.api.shared.field_types import Lenient, Whole
from server.api.thinking import SWITCHED_ON
from server.errors import BadRequest

EffortName: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "default", "auto", ""]
EFFORTS: Mapping[str, Effort] = {
    "none": "none", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high",
    "max": "high",
}  # fmt: skip
EFFORT = f"one of {', '.join(EFFORTS)}"

Budget: TypeAlias = Annotated[Whole, Field(ge=-1)]


class Reasoning(Lenient):
    effort: EffortName | None = None
    max_tokens: Budget | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class Thinking(Lenient):
    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    budget_tokens: Budget | None = None


class ThinkingFields(Lenient):
    """The fields of a chat completion that concern thinking."""

    reasoning_effort: EffortName | None = Field(None, description=EFFORT)
    reasoning: Reasoning | None = Field(
        None, description='an object like {"effort": "low", "max_tokens": 1000, "enabled": true, "exclude": false}'
    )
    thinking: Thinking | bool | None = Field(
        None, description='true, false or an object like {"type": "enabled", "budget_tokens": 1000}'
    )
    enable_thinking: bool | None = Field(None, description="true or false")
    think: bool | EffortName | None = Field(None, description=f"true, false or {EFFORT}")
    thinking_budget: Budget | None = Field(
        None, description="a whole number: the most tokens to think; -1 for no limit"
    )
    include_reasoning: bool | None = Field(
        None, description="true or false: whether the reply shows what the model thought"
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, max_length=64, description="an object of at most 64 variables of the model's chat template"
    )


@dataclass(frozen=True, slots=True)
class ThinkingWish:
    effort: Effort | None = None
    on: bool = False  # switched on without a strength
    max_tokens: int | None = None
    shown: bool = True  # whether the reply contains it


def read_thinking(body: ThinkingFields) -> ThinkingWish:
    """Raises `BadRequest` when two fields contradict each other."""
    switches, efforts = dict(_switches(body)), dict(_efforts(body))
    off = next((field for field, on in switches.items() if not on), None)
    on = next((field for field, on in switches.items() if on), None)
    if off is not None and on is not None:
        raise BadRequest(f"{off} and {on} contradict each other: one says not to think, the other to think.", param=off)
    if len(set(efforts.values())) > 1:
        names = list(efforts)
        raise BadRequest(f"{names[0]} and {names[-1]} name different efforts: send one of them.", param=names[-1])
    effort: Effort | None = "none" if off is not None else next(iter(efforts.values()), None)
    limit = None if effort == "none" else min((budget for _, budget in _budgets(body)), default=None)
    return ThinkingWish(
        effort=effort,
        on=on is not None and effort is None,
        max_tokens=limit,
        shown=body.include_reasoning is not False and not (body.reasoning is not None and body.reasoning.exclude),
    )


def _switches(body: ThinkingFields) -> Iterator[tuple[str, bool]]:
    """Yields each field that switches thinking on or off."""
    if body.enable_thinking is not None:
        yield "enable_thinking", body.enable_thinking
    if isinstance(body.thinking, bool):
        yield "thinking", body.thinking
    elif body.thinking is not None and body.thinking.type in ("enabled", "disabled"):
        yield "thinking", body.thinking.type == "enabled"
    if body.reasoning is not None and body.reasoning.enabled is not None:
        yield "reasoning.enabled", body.reasoning.enabled
    if isinstance(body.think, bool):
        yield "think", body.think
    for name in SWITCHED_ON:
        if isinstance(value := (body.chat_template_kwargs or {}).get(name), bool):
            yield f"chat_template_kwargs.{name}", value
    for name, effort in _efforts(body):
        yield name, effort != "none"
    for name, budget in _budgets(body):
        if budget == 0:
            yield name, False


def _efforts(body: ThinkingFields) -> Iterator[tuple[str, Effort]]:
    """Yields each field that names a strength."""
    named = {
        "reasoning_effort": body.reasoning_effort,
        "reasoning.effort": body.reasoning and body.reasoning.effort,
        "think": body.think,
        "chat_template_kwargs.reasoning_effort": (body.chat_template_kwargs or {}).get("reasoning_effort"),
    }
    for name, effort in named.items():
        if isinstance(effort, str) and effort in EFFORTS:
            yield name, EFFORTS[effort]


def _budgets(body: ThinkingFields) -> Iterator[tuple[str, int]]:
    """Yields each field that limits the tokens."""
    if body.thinking_budget is not None and body.thinking_budget >= 0:
        yield "thinking_budget", body.thinking_budget
    if body.reasoning is not None and body.reasoning.max_tokens is not None and body.reasoning.max_tokens >= 0:
        yield "reasoning.max_tokens", body.reasoning.max_tokens
    thinking = body.thinking
    if isinstance(thinking, Thinking) and thinking.budget_tokens is not None and thinking.budget_tokens >= 0:
        yield "thinking.budget_tokens", thinking.budget_tokens
