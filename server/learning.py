"""What the quanta that ran teach: peaks, useful widths, and each request's share of the seconds. Pure; device thread only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from pipelines.interface import Note, Reweighed, StepCost
from server.peaks import Peak, Peaks
from server.widths import Widths, bucket_of


def learn(notes: Iterable[Note], key: str, free_bytes: int, peaks: Peaks, widths: Widths) -> Mapping[str, float]:
    """Seconds used, by request. `free_bytes`: what was free of the device when the quantum began."""
    used: dict[str, float] = defaultdict(float)
    for note in notes:
        if isinstance(note, Reweighed):
            continue
        entry, bucket = f"{note.component}.{note.entry}", bucket_of(note.rows)
        if not isinstance(note, StepCost):
            peaks.note(Peak(key, entry, note.shape, note.units, bucket, free_bytes, failed=True))
            continue
        if note.peak_bytes is not None:
            peaks.note(Peak(key, entry, note.shape, note.units, bucket, note.peak_bytes))
        widths.note(key, f"{note.stage} {note.shape}", note.rows, note.seconds)
        for request_id in note.request_ids:
            used[request_id] += note.seconds / len(note.request_ids)
    return used
