"""What the scheduler learned and what people decided of models, kept in the store."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from server.store import learned, model_overrides
from server.store.learned import PeakRow
from server.store.model_overrides import ModelOverride
from tests.support.stores import NOW, open_store

PEAK = PeakRow("f" * 32, "transformer.forward", "128x128x1", 4, "peak", 16384, 7 << 33)


def test_a_peak_measured_again_replaces_the_one_before_and_a_boundary_stands_beside_it(tmp_path: Path) -> None:
    newer, boundary = replace(PEAK, n_bytes=5), replace(PEAK, outcome="out_of_memory", n_bytes=3)
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: learned.save_peaks(conn, [PEAK], NOW))
        assert database.read_now(learned.all_peaks) == [PEAK]
        database.write_now(lambda conn: learned.save_peaks(conn, [newer, boundary], NOW))

        assert {peak.key: peak for peak in database.read_now(learned.all_peaks)} == {
            newer.key: newer,
            boundary.key: boundary,
        }


def test_a_verdict_survives_a_restart_as_the_lane_gave_it(tmp_path: Path) -> None:
    given = {"transformer.forward": "off", "vae.decode": "on"}
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: learned.save_verdict(conn, "a", {"transformer.forward": "on"}, NOW))
        database.write_now(lambda conn: learned.save_verdict(conn, "a", given, NOW))
    with open_store(tmp_path) as database:
        assert database.read_now(learned.all_verdicts) == {"a": given}


def test_what_was_last_seen_long_ago_is_forgotten_and_the_rest_stays(tmp_path: Path) -> None:
    old, new = replace(PEAK, shape="8x8x1"), PEAK
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: learned.save_peaks(conn, [old], NOW - timedelta(days=40)))
        database.write_now(lambda conn: learned.save_peaks(conn, [new], NOW))
        database.write_now(lambda conn: learned.save_verdict(conn, "old", {}, NOW - timedelta(days=40)))
        database.write_now(lambda conn: learned.forget_before(conn, NOW - timedelta(days=30)))

        assert database.read_now(learned.all_peaks) == [new]
        assert database.read_now(learned.all_verdicts) == {}


def test_a_pin_and_a_keep_alive_are_decided_apart_and_survive_a_restart(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: model_overrides.decide(conn, "painter", pinned=True))
        database.write_now(lambda conn: model_overrides.decide(conn, "painter", keep_alive_s=math.inf))
        database.write_now(lambda conn: model_overrides.decide(conn, "talker", keep_alive_s=0.0))
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: model_overrides.decide(conn, "talker", pinned=False))

        assert database.read_now(model_overrides.model_overrides) == {
            "painter": ModelOverride(True, math.inf),
            "talker": ModelOverride(False, 0.0),
        }
