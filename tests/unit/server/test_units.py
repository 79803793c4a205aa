"""Sizes are printed with binary units."""

from __future__ import annotations

import pytest

from server.units import size


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 2**29, "1.5 GiB"), (2**60, "1048576.0 TiB")],
)
def test_sizes_are_shown_for_people(n_bytes: int, shown: str) -> None:
    assert size(n_bytes) == shown
