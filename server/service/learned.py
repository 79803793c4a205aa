"""Persists what the engines learn about checkpoints: activation peaks and merge verdicts. Event loop only.

The store is read before the engines start. Writes delay no job: new values are collected for a while and written
together; values that the store did not accept are written with the next ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection

from models.fingerprint import fingerprint
from server.errors import Unavailable
from server.memory.activations import Peaks
from server.protocol import Peak, PeaksLearned, VerdictsReached
from server.store import learned
from server.store.database import Database
from server.store.learned import PeakRow

logger = logging.getLogger(__name__)

WRITE_DELAY_S = 2.0  # collects new values into one write
RETENTION = timedelta(days=180)  # values not measured again for so long: their checkpoint has likely been deleted


class LearnedValues:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        # The event loop's own copy, with the peaks of all devices: it predicts the memory that a new job needs.
        self.peaks = Peaks()
        self._verdicts: dict[str, dict[str, bool]] = {}  # fingerprint → call → whether it may be merged
        self._new_peaks: dict[tuple[str, str, str, int, str], PeakRow] = {}
        self._new_verdicts: set[str] = set()
        self._writing: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Reads the store. Blocks; called before the engines are built."""

        def read(conn: Connection) -> tuple[list[PeakRow], dict[str, dict[str, bool]]]:
            learned.forget_before(conn, self._clock() - RETENTION)
            return learned.all_peaks(conn), learned.all_verdicts(conn)

        rows, self._verdicts = self._database.write_now(read)
        self.peaks.restore(_peak(row) for row in rows)
        self._rows = rows

    def stored_peaks(self) -> list[Peak]:
        """The peaks known at start; each engine adds its own measurements to its copy."""
        return [_peak(row) for row in self._rows]

    def verdicts(self, fingerprint: str) -> Mapping[str, bool]:
        """Call → whether it may be merged. Any thread: the mapping is replaced, never changed."""
        return self._verdicts.get(fingerprint, {})

    def add(self, event: PeaksLearned | VerdictsReached) -> None:
        match event:
            case PeaksLearned(peaks):
                for peak in peaks:
                    self.peaks.record(peak)
                    row = _row(peak)
                    self._new_peaks[row.key] = row
                self.peaks.take_new()
            case VerdictsReached(fingerprint, verdicts):
                self._verdicts = {**self._verdicts, fingerprint: {**self.verdicts(fingerprint), **verdicts}}
                self._new_verdicts.add(fingerprint)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_soon())

    async def close(self) -> None:
        """Writes the values that were not written yet."""
        if self._writing is not None:
            self._writing.cancel()
        await self._write()

    async def _write_soon(self) -> None:
        await asyncio.sleep(WRITE_DELAY_S)
        await self._write()

    async def _write(self) -> None:
        peaks, self._new_peaks = self._new_peaks, {}
        changed, self._new_verdicts = self._new_verdicts, set()
        if not peaks and not changed:
            return
        verdicts = {fingerprint: self._verdicts[fingerprint] for fingerprint in changed}

        def save(conn: Connection) -> None:
            learned.save_peaks(conn, peaks.values(), self._clock())
            for key, verdict in verdicts.items():
                learned.save_verdict(conn, key, verdict, self._clock())

        try:
            await self._database.write(save)
        except Unavailable:
            logger.warning(
                "learned values not stored, trying again with the next ones",
                extra={"peaks": len(peaks), "verdicts": len(changed)},
            )
            self._new_peaks = peaks | self._new_peaks
            self._new_verdicts |= changed


def measurement_key(folder: Path | None, dtype: str, device: str) -> str:
    """A hash of what a measurement is valid for: these files, this precision, this kind of device.

    Empty when the files cannot be read.
    """
    try:
        files = fingerprint(folder) if folder is not None else ""
    except OSError:
        return ""
    if not files:
        return ""
    return hashlib.sha256(f"{files} {dtype} {device.partition(':')[0]}".encode()).hexdigest()[:32]


def _row(peak: Peak) -> PeakRow:
    outcome: learned.Outcome = "out_of_memory" if peak.failed else "peak"
    return PeakRow(peak.model, peak.entry, peak.shape, peak.rows, outcome, peak.units, peak.peak_bytes)


def _peak(row: PeakRow) -> Peak:
    failed = row.outcome == "out_of_memory"
    return Peak(row.fingerprint, row.entry, row.shape, row.units, row.rows, row.n_bytes, failed)
