"""The kernel's counter of processes that it ended for want of memory."""

from __future__ import annotations

from pathlib import Path

from server.process.oom_kills import oom_kills


def test_the_counter_is_read_and_one_that_is_not_there_is_not_taken_for_zero(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 7\noom_kill 3\nswap_ra 0\n")
    assert oom_kills(counters) == 3

    counters.write_text("nr_free_pages 7\n")
    assert oom_kills(counters) is None
    assert oom_kills(tmp_path / "nowhere") is None
