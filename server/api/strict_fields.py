"""Types of fields that bodies of several routes have, and the patterns that texts must match.

A field's `description` completes the sentence "FIELD must be …": it is both the documentation and the error text.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from server.jobs.request.generate_request import MAX_SEED

# At least one character that is not white space, and no NUL, which neither Postgres nor a command line can carry.
NOT_BLANK = r"^[^\x00]*[^\s\x00][^\x00]*$"
NO_NUL = r"^[^\x00]*$"
FILE_NAME = r"^[^\x00-\x1f\x7f/\\]+$"  # as files are named in any script, and never a path
PRINTABLE = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$"  # for names and titles


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


Seed: TypeAlias = Annotated[int, Field(ge=0, le=MAX_SEED, description=f"a whole number from 0 to {MAX_SEED}")]
Prompt: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4000,
        pattern=NOT_BLANK,
        description="text of 1 to 4000 characters, not only white space",
    ),
]
ModelName: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=200, pattern=PRINTABLE, description="a name from GET /api/models")
]
Side: TypeAlias = Annotated[
    int, Field(ge=8, le=16384, description="a whole number of pixels from 8 to 16384 that the model accepts")
]
