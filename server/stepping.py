"""How wide the next step of a lane is: as many rows as are useful, as fit, and as take a bounded time while somebody waits.

Device thread only; pure.
"""

from __future__ import annotations

from pipelines.interface import Quantum
from server.memory import Ledger
from server.peaks import Peaks
from server.residents import Resident
from server.widths import Widths, bucket_of


class Stepping:
    def __init__(self, ledger: Ledger, peaks: Peaks, widths: Widths, *, quantum_s: float) -> None:
        """`quantum_s`: most that a merged call of pictures or clips should take while others wait."""
        self._ledger = ledger
        self._peaks = peaks
        self._widths = widths
        self._quantum_s = quantum_s

    def rows_and_bytes(self, resident: Resident, quantum: Quantum, others_wait: bool) -> tuple[int, int]:
        """Rows of the step, at least one, and the bytes they will hold."""
        rows = quantum.rows
        if not resident.is_chat:
            shape = f"{quantum.stage} {quantum.shape}"
            rows = max(1, min(rows, self._widths.useful(resident.key, shape)))
            if others_wait:
                rows = self._in_time(resident.key, shape, rows)
        return self._that_fits(resident, quantum, rows)

    def _in_time(self, key: str, shape: str, rows: int) -> int:
        """The most rows whose call is expected to end within the bound."""
        while rows > 1:
            row_s = self._widths.row_s(key, shape, rows)
            if row_s is None or row_s * rows <= self._quantum_s:
                break
            rows = bucket_of(rows) // 2
        return rows

    def _that_fits(self, resident: Resident, quantum: Quantum, rows: int) -> tuple[int, int]:
        entry = f"{quantum.component}.{quantum.entry}"
        while True:
            need = self._peaks.predict(resident.key, entry, quantum.shape, quantum.units, bucket_of(rows))
            if need is None:  # never measured: where it can be, a single row tells
                return (1 if self._ledger.has_driver and not resident.is_chat else rows), 0
            if rows == 1 or need <= self._ledger.free_bytes:
                return rows, need
            rows = bucket_of(rows) // 2
