"""How much disk the files of a key may take. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from server.errors import TooLarge, TooMany
from server.jobs.inputs.references import field_of
from server.units import size


@dataclass(frozen=True, slots=True)
class Space:
    used_bytes: int
    limit_bytes: int | None  # None: no limit


def check_space(space: Space, added_bytes: int, place: str) -> None:
    """Raises `TooLarge` for a file that takes more than all of the key's space, `TooMany` for a space that is full."""
    limit = space.limit_bytes
    if limit is None or space.used_bytes + added_bytes <= limit:
        return
    if added_bytes > limit:
        raise TooLarge(
            f"{place} takes {size(added_bytes)} as the server keeps it. The plan of this key allows "
            f"{_short_size(limit)} for all its files.",
            param=field_of(place),
        )
    raise TooMany(
        f"The files of this key take {size(space.used_bytes)} of the {_short_size(limit)} that its plan allows. Delete "
        "some, see GET /api/files, or wait until they expire.",
        retry_after_s=60,
    )


def _short_size(n_bytes: int) -> str:
    return size(n_bytes).replace(".0 ", " ")
