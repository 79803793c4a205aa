"""Learned values survive a restart, and are written together, later."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from server.errors import Unavailable
from server.protocol import Peak, PeaksLearned, VerdictsReached
from server.service import learned
from server.service.learned import LearnedValues, measurement_key
from server.store import learned as store
from tests.support.stores import NOW, open_store

pytestmark = pytest.mark.anyio
PEAK = Peak("f", "transformer.forward", "64x64x1", 4096, 2, 9000)
BOUNDARY = Peak("f", "vae.decode", "64x64x1", 4096, 1, 700, failed=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def load(database) -> LearnedValues:
    values = LearnedValues(database, lambda: NOW)
    values.load()
    return values


async def test_peaks_out_of_memory_boundaries_and_verdicts_survive_a_restart(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        values = load(database)
        values.add(PeaksLearned((PEAK, BOUNDARY)))
        values.add(VerdictsReached("f", {"transformer.forward 1a": True}))
        values.add(VerdictsReached("f", {"vae.decode 2b": False}))
        await values.close()
    with open_store(tmp_path) as database:
        values = load(database)

        assert set(values.stored_peaks()) == {PEAK, BOUNDARY}
        assert values.verdicts("f") == {"transformer.forward 1a": True, "vae.decode 2b": False}
        assert values.verdicts("another") == {}
        assert values.peaks.predict("f", "transformer.forward", "64x64x1", 4096, 2) == 9000


async def test_new_values_are_collected_into_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "WRITE_DELAY_S", 0.0)
    with open_store(tmp_path) as database:
        values = load(database)
        for n_bytes in range(1, 50):
            values.add(PeaksLearned((Peak("f", "e", "8x8x1", 64, 1, n_bytes),)))
        await asyncio.wait_for(values._writing, 5)  # type: ignore[arg-type]  # the write has begun

        assert [row.n_bytes for row in database.read_now(store.all_peaks)] == [49]


async def test_values_that_the_store_refuses_are_written_with_the_next_ones(tmp_path: Path) -> None:
    class UnavailableDatabase:
        def __init__(self, inner) -> None:
            self.inner, self.refuses = inner, True

        def write_now(self, work):
            return self.inner.write_now(work)

        async def write(self, work):
            if self.refuses:
                raise Unavailable("full")
            return await self.inner.write(work)

    with open_store(tmp_path) as database:
        refusing = UnavailableDatabase(database)
        values = load(refusing)
        values.add(PeaksLearned((PEAK,)))
        await values.close()
        assert database.read_now(store.all_peaks) == []
        refusing.refuses = False
        await values.close()
        assert database.read_now(lambda conn: conn.execute(text("select count(*) from peaks")).scalar()) == 1


def test_a_measurement_is_valid_for_the_same_files_precision_and_kind_of_device(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    key = measurement_key(tmp_path, "bfloat16", "cuda:0")

    assert measurement_key(tmp_path, "bfloat16", "cuda:1") == key
    assert measurement_key(tmp_path, "float32", "cuda:0") != key
    assert measurement_key(tmp_path, "bfloat16", "cpu") != key
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert measurement_key(tmp_path, "bfloat16", "cuda:0") not in ("", key)
    assert measurement_key(tmp_path / "gone", "bfloat16", "cpu") == measurement_key(None, "bfloat16", "cpu") == ""
