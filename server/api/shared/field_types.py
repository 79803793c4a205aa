"""Types of the fields in the bodies of other dialects, which are read more tolerantly than our own. Pure functions."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from server.api.strict_fields import NO_NUL

MAX_TOKEN = 2**31  # no vocabulary is as large


class Lenient(BaseModel):
    """Unknown fields inside are ignored; those of a whole body are looked at before."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 100.0 is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError
    return value


def token_ids(values: object) -> tuple[int, ...] | None:
    """Returns the token ids of a list that has at least one and nothing else; None for any other value."""
    if not isinstance(values, list) or not values:
        return None
    whole = [_whole(value) for value in values]
    return tuple(whole) if all(type(value) is int and 0 <= value < MAX_TOKEN for value in whole) else None


Whole: TypeAlias = Annotated[int, BeforeValidator(_whole)]
# -1 means no limit, as clients of llama.cpp and LM Studio send it.
Limit: TypeAlias = Annotated[int, BeforeValidator(_whole), AfterValidator(_not_zero), Field(ge=-1)]
TokenId: TypeAlias = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=MAX_TOKEN)]
TokenKey: TypeAlias = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
StopText: TypeAlias = Annotated[str, Field(max_length=1000, pattern=NO_NUL)]
