"""The store keeps what the scheduler has learned about checkpoints."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from server.store import learned
from server.store.learned import PeakRow
from tests.support.stores import NOW, open_store

PEAK = PeakRow("f" * 32, "transformer.forward", "128x128x1", 4, "peak", 16384, 7 << 33)


def test_a_new_peak_replaces_the_old_one_and_an_out_of_memory_row_is_separate(tmp_path: Path) -> None:
    newer, boundary = replace(PEAK, n_bytes=5), replace(PEAK, outcome="out_of_memory", n_bytes=3)
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: learned.save_peaks(conn, [PEAK], NOW))
        assert database.read_now(learned.all_peaks) == [PEAK]
        database.write_now(lambda conn: learned.save_peaks(conn, [newer, boundary], NOW))

        assert {peak.key: peak for peak in database.read_now(learned.all_peaks)} == {
            newer.key: newer,
            boundary.key: boundary,
        }


def test_a_verdict_survives_a_restart_unchanged(tmp_path: Path) -> None:
    verdict = {"transformer.forward": "off", "vae.decode": "on"}
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: learned.save_verdict(conn, "a", {"transformer.forward": "on"}, NOW))
        database.write_now(lambda conn: learned.save_verdict(conn, "a", verdict, NOW))
    with open_store(tmp_path) as database:
        assert database.read_now(learned.all_verdicts) == {"a": verdict}


def test_old_measurements_are_deleted_and_the_others_stay(tmp_path: Path) -> None:
    old, new = replace(PEAK, shape="8x8x1"), PEAK
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: learned.save_peaks(conn, [old], NOW - timedelta(days=40)))
        database.write_now(lambda conn: learned.save_peaks(conn, [new], NOW))
        database.write_now(lambda conn: learned.save_verdict(conn, "old", {}, NOW - timedelta(days=40)))
        database.write_now(lambda conn: learned.forget_before(conn, NOW - timedelta(days=30)))

        assert database.read_now(learned.all_peaks) == [new]
        assert database.read_now(learned.all_verdicts) == {}
