"""Types of the fields in OpenAI's request bodies, which are read more tolerantly than our own. Pure functions."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from server.api.schemas import NO_NUL


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


Whole: TypeAlias = Annotated[int, BeforeValidator(_whole)]
# -1 means no limit, as clients of llama.cpp and LM Studio send it.
Limit: TypeAlias = Annotated[int, BeforeValidator(_whole), AfterValidator(_not_zero), Field(ge=-1)]
TokenId: TypeAlias = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**31)]
TokenKey: TypeAlias = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
StopText: TypeAlias = Annotated[str, Field(max_length=1000, pattern=NO_NUL)]
