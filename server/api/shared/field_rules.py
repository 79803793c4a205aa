"""Sorts the fields of a body: those that are done, taken without an effect, or refused by name. Pure functions.

Each route of another dialect has tables of the fields that its clients send (`FieldRules`). Any field may have a value
that asks for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from server.api.schemas import unknown_field
from server.errors import BadRequest


@dataclass(frozen=True, slots=True)
class FieldRules:
    """What happens to the fields of one route that are not done."""

    aliases: Mapping[str, str]  # other servers' names of fields that are done
    noted: Collection[str]  # taken with any value, without an effect
    neutral: Mapping[str, tuple[Any, ...]]  # taken with these values only, besides those that ask for nothing
    never: Collection[str]  # refused, an empty object too
    warnings: Mapping[str, str]  # taken, with this warning in the reply when the value asks for something
    reasons: Mapping[str, str]  # why a field is refused, and what to do


def asks_for_nothing(value: object) -> bool:
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def sort_out(raw: Mapping[str, Any], done: Mapping[str, Any], rules: FieldRules) -> tuple[dict[str, Any], list[str]]:
    """Returns the fields to read, under the names of `done`, and warnings for the client. Raises `BadRequest`.

    done: by the name of each field that is done, anything.
    """
    fields: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in raw.items():
        if name in done or name in rules.aliases:
            _put(fields, name, value, rules.aliases)
        elif name in rules.warnings:
            if not asks_for_nothing(value):
                warnings.append(rules.warnings[name])
        elif name not in rules.noted:
            _check_neutral(name, value, done, rules)
    return fields, warnings


def _put(fields: dict[str, Any], name: str, value: Any, aliases: Mapping[str, str]) -> None:
    """Adds a field that may be given under two names."""
    own_name = aliases.get(name, name)
    if value is None or (name in aliases and asks_for_nothing(value)):
        return
    if own_name in fields and not same_json(fields[own_name], value):
        raise BadRequest(f"{own_name} is given twice, also as another server's name of it, and differs.", param=name)
    fields[own_name] = value


def _check_neutral(name: str, value: object, done: Mapping[str, Any], rules: FieldRules) -> None:
    neutral = rules.neutral.get(name, ())
    asks = (
        not asks_for_nothing(value)
        or (value is False and any(other is True for other in neutral))
        or (value == {} and name in rules.never)
    )
    if not asks or any(same_json(value, other) for other in neutral):
        return
    if name not in rules.neutral and name not in rules.never:
        raise unknown_field(done, name)
    only = f"only {json.dumps(neutral[0])} is. Leave it out." if neutral else "leave it out."
    raise BadRequest(f"{name} is not supported: {rules.reasons.get(name, only)}", param=name)


def same_json(value: object, other: object) -> bool:
    """Whether two JSON values are equal; 1 and 1.0 are, 1 and true are not."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
