"""Updates the memory and batch-size models from finished steps. Pure; device thread only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from pipelines.interface import Note, StepCost, WeightsChanged
from server.memory.activations import Peaks
from server.protocol import Peak
from server.scheduling.batch_size import BatchSizes, bucket_of


def learn(
    notes: Iterable[Note], key: str, free_bytes: int, peaks: Peaks, batch_sizes: BatchSizes
) -> Mapping[str, float]:
    """Returns the device seconds of each request. free_bytes: what was free on the device when the step began."""
    used: dict[str, float] = defaultdict(float)
    for note in notes:
        if isinstance(note, WeightsChanged):
            continue
        entry, bucket = f"{note.component}.{note.entry}", bucket_of(note.rows)
        if not isinstance(note, StepCost):
            peaks.note(Peak(key, entry, note.shape, note.units, bucket, free_bytes, failed=True))
            continue
        if note.peak_bytes is not None:
            peaks.note(Peak(key, entry, note.shape, note.units, bucket, note.peak_bytes))
        batch_sizes.note(key, f"{note.stage} {note.shape}", note.rows, note.seconds)
        for request_id in note.request_ids:
            used[request_id] += note.seconds / len(note.request_ids)
    return used
