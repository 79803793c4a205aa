"""Random SIGKILLs of server and supervisor under a mixed load do no harm. `benchmarks/kills.py` does more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kills import kill_again_and_again

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_five_random_kills_lose_nothing_double_nothing_and_leave_no_file(tmp_path: Path) -> None:
    harm = kill_again_and_again(tmp_path, kills=5, seed=11, clients=3)

    assert not harm.any, harm
    assert harm.kills["server"] == 4
    assert harm.kills["supervisor"] == 1
    assert harm.accepted == harm.ends["completed"] > 0
