"""Updates the memory and batch-size models from finished forwards. Device thread only; no I/O."""

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
    """Returns the device seconds of each request, by its id.

    notes: what a lane measured. key: the model's, for measurements. free_bytes: what was free when the step began.
    """
    used: dict[str, float] = defaultdict(float)
    for note in notes:
        if isinstance(note, WeightsChanged):
            continue
        entry, width = f"{note.component}.{note.entry}", bucket_of(note.rows)
        if not isinstance(note, StepCost):
            peaks.record(Peak(key, entry, note.shape, note.units, width, free_bytes, failed=True))
            continue
        if note.peak_bytes is not None:
            peaks.record(Peak(key, entry, note.shape, note.units, width, note.peak_bytes))
        batch_sizes.record(key, f"{note.stage} {note.shape}", note.rows, note.seconds)
        for request_id in note.request_ids:
            used[request_id] += note.seconds / len(note.request_ids)
    return used
