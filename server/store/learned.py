"""Measurements per checkpoint that survive a restart: activation peaks and merge verdicts.

A new measurement replaces the row of the old one. Functions that write run on the store's writer thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, TypeAlias

from sqlalchemy import Connection, delete, insert, select

from server.store import schema

Outcome: TypeAlias = Literal["peak", "out_of_memory"]


@dataclass(frozen=True, slots=True)
class PeakRow:
    """The bytes that a merged call of that shape took, or the free bytes with which it ran out of memory."""

    fingerprint: str
    entry: str  # "transformer.forward"
    shape: str
    rows: int
    outcome: Outcome
    units: int
    n_bytes: int

    @property
    def key(self) -> tuple[str, str, str, int, Outcome]:
        return self.fingerprint, self.entry, self.shape, self.rows, self.outcome


def save_peaks(conn: Connection, peaks: Iterable[PeakRow], at: datetime) -> None:
    table = schema.peaks
    for peak in peaks:
        same = (
            (table.c.fingerprint == peak.fingerprint)
            & (table.c.entry == peak.entry)
            & (table.c.shape == peak.shape)
            & (table.c.rows == peak.rows)
            & (table.c.outcome == peak.outcome)
        )
        conn.execute(delete(table).where(same))
        conn.execute(insert(table), asdict(peak) | {"seen_at": at})


def all_peaks(conn: Connection) -> list[PeakRow]:
    columns = [schema.peaks.c[field.name] for field in fields(PeakRow)]
    return [PeakRow(**row) for row in conn.execute(select(*columns)).mappings()]


def save_verdict(conn: Connection, fingerprint: str, verdict: Mapping[str, Any], at: datetime) -> None:
    table = schema.verdicts
    conn.execute(delete(table).where(table.c.fingerprint == fingerprint))
    conn.execute(insert(table), {"fingerprint": fingerprint, "verdict": dict(verdict), "seen_at": at})


def all_verdicts(conn: Connection) -> dict[str, dict[str, Any]]:
    """Returns the verdicts by fingerprint."""
    table = schema.verdicts
    return {row.fingerprint: row.verdict for row in conn.execute(select(table.c.fingerprint, table.c.verdict))}


def forget_before(conn: Connection, at: datetime) -> None:
    """Deletes measurements older than `at`: their checkpoints have probably changed or gone."""
    for table in (schema.peaks, schema.verdicts):
        conn.execute(delete(table).where(table.c.seen_at < at))
