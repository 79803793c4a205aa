"""What engines learn survives the process, and keeping it delays nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from server.errors import Unavailable
from server.protocol import Peak, PeaksLearned, VerdictsReached
from server.service import learned
from server.service.learned import LearnedValues, knowledge_key
from server.store import learned as store
from tests.support.stores import NOW, open_store

pytestmark = pytest.mark.anyio
PEAK = Peak("f", "transformer.forward", "64x64x1", 4096, 2, 9000)
BOUNDARY = Peak("f", "vae.decode", "64x64x1", 4096, 1, 700, failed=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def opened(database) -> LearnedValues:
    known = LearnedValues(database, lambda: NOW)
    known.load()
    return known


async def test_peaks_boundaries_and_verdicts_are_there_after_a_restart(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        known = opened(database)
        known.take(PeaksLearned((PEAK, BOUNDARY)))
        known.take(VerdictsReached("f", {"transformer.forward 1a": True}))
        known.take(VerdictsReached("f", {"vae.decode 2b": False}))
        await known.close()
    with open_store(tmp_path) as database:
        known = opened(database)

        assert set(known.peaks_for_a_device()) == {PEAK, BOUNDARY}
        assert known.verdicts("f") == {"transformer.forward 1a": True, "vae.decode 2b": False}
        assert known.verdicts("another") == {}
        assert known.peaks.predict("f", "transformer.forward", "64x64x1", 4096, 2) == 9000


async def test_news_are_gathered_into_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "GATHER_S", 0.0)
    with open_store(tmp_path) as database:
        known = opened(database)
        for n_bytes in range(1, 50):
            known.take(PeaksLearned((Peak("f", "e", "8x8x1", 64, 1, n_bytes),)))
        await asyncio.wait_for(known._writing, 5)  # type: ignore[arg-type]  # it is under way

        assert [row.n_bytes for row in database.read_now(store.all_peaks)] == [49]


async def test_what_the_store_cannot_take_is_written_with_the_next(tmp_path: Path) -> None:
    class Refusing:
        def __init__(self, inner) -> None:
            self.inner, self.refuses = inner, True

        def write_now(self, work):
            return self.inner.write_now(work)

        async def write(self, work):
            if self.refuses:
                raise Unavailable("full")
            return await self.inner.write(work)

    with open_store(tmp_path) as database:
        refusing = Refusing(database)
        known = opened(refusing)
        known.take(PeaksLearned((PEAK,)))
        await known.close()
        assert database.read_now(store.all_peaks) == []
        refusing.refuses = False
        await known.close()
        assert database.read_now(lambda conn: conn.execute(text("select count(*) from peaks")).scalar()) == 1


def test_a_measurement_is_good_for_the_same_files_precision_and_kind_of_device(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    key = knowledge_key(tmp_path, "bfloat16", "cuda:0")

    assert knowledge_key(tmp_path, "bfloat16", "cuda:1") == key
    assert knowledge_key(tmp_path, "float32", "cuda:0") != key
    assert knowledge_key(tmp_path, "bfloat16", "cpu") != key
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert knowledge_key(tmp_path, "bfloat16", "cuda:0") not in ("", key)
    assert knowledge_key(tmp_path / "gone", "bfloat16", "cpu") == knowledge_key(None, "bfloat16", "cpu") == ""
