"""Which device a job goes to, and which waiting jobs another device should take over. Pure functions; no clock, no I/O.

A job goes, first that applies,
  1. nowhere, when no device that its entry allows could ever hold its model
  2. where its model is resident, loading or awaited: to the one with the least ahead of it
  3. but when that wait is longer than a second load is worth and a device has nothing to do: there, if it has free memory
  4. where the model fits without pushing another out: to the one with the least to do, then to the one with most room
  5. where it fits once idle models have left
  6. to the one with the least to do
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.fleet.job_times import JobTimes

REPLICA_WORTH = (
    2.0  # a wait this many times the load starts a second copy of a model: loading too takes the device's time
)


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device as seen from the event loop: the engine's last picture and what was sent to it since."""

    usable_bytes: int  # what one model could have if nothing else were there
    free_bytes: int
    idle_bytes: int = 0  # held by models that could leave at once
    models: frozenset[str] = frozenset()  # resident, loading, or with jobs on the way
    jobs: Mapping[str, int] = field(default_factory=dict)  # model → jobs that wait or run here
    barred: frozenset[str] = frozenset()  # models whose entry names another device

    @property
    def n_jobs(self) -> int:
        return sum(self.jobs.values())

    def has_room(self, need_bytes: int) -> bool:
        return self.free_bytes >= need_bytes


@dataclass(frozen=True, slots=True)
class Move:
    job_id: str
    source: int
    target: int


def place(model: str, need_bytes: int, devices: Sequence[DeviceView], times: JobTimes) -> int | None:
    """The index of the device for one more job of `model`; None when it can never fit."""
    backlog = [times.of_jobs(device.jobs) for device in devices]
    able = [i for i, device in enumerate(devices) if device.usable_bytes >= need_bytes and model not in device.barred]
    if not able:
        return None  # 1
    homes = [i for i in able if model in devices[i].models]
    if homes:
        home = min(homes, key=lambda i: backlog[i])
        spare = [i for i in able if i not in homes and not devices[i].n_jobs and devices[i].has_room(need_bytes)]
        if spare and backlog[home] > REPLICA_WORTH * times.of_load(model):
            return max(spare, key=lambda i: devices[i].free_bytes)  # 3
        return home  # 2
    roomy = [i for i in able if devices[i].has_room(need_bytes)]
    if roomy:
        return min(roomy, key=lambda i: (backlog[i], -devices[i].free_bytes))  # 4
    clearable = [i for i in able if devices[i].free_bytes + devices[i].idle_bytes >= need_bytes]
    return min(clearable or able, key=lambda i: backlog[i])  # 5, 6


def rebalance(
    devices: Sequence[DeviceView],
    waiting: Sequence[Sequence[tuple[str, str]]],
    need_bytes: Mapping[str, int],
    times: JobTimes,
) -> list[Move]:
    """Waiting jobs that should change to a device with nothing to do, until both would be done at about the same time.

    waiting: by device, (job id, model) in the order they would start; need_bytes: of every model among them. Of a model the
    idle device lacks, only when the wait outweighs the load.
    """
    moves: list[Move] = []
    idle = [i for i, device in enumerate(devices) if not device.n_jobs]
    donors = sorted((i for i, jobs in enumerate(waiting) if jobs), key=lambda i: -times.of_jobs(devices[i].jobs))
    for target, source in zip(idle, donors, strict=False):
        job_ids = _worth_moving(devices[source], waiting[source], devices[target], need_bytes, times)
        moves += [Move(job_id, source, target) for job_id in job_ids]
    return moves


def _worth_moving(
    busy: DeviceView,
    waiting: Sequence[tuple[str, str]],
    idle: DeviceView,
    need_bytes: Mapping[str, int],
    times: JobTimes,
) -> list[str]:
    """Jobs of one model: the one with most to gain."""
    best_gain_s, best_model, its_load_s = 0.0, "", 0.0
    for model, count in Counter(model for _, model in waiting).items():
        if model in idle.barred:
            continue
        room = idle.free_bytes if model in busy.models else idle.free_bytes + idle.idle_bytes  # a copy evicts nobody
        if model not in idle.models and (idle.usable_bytes < need_bytes[model] or room < need_bytes[model]):
            continue
        load_s = 0.0 if model in idle.models else REPLICA_WORTH * times.of_load(model)
        gain_s = min(count * times.of_job(model), times.of_jobs(busy.jobs)) - load_s
        if gain_s > best_gain_s:
            best_gain_s, best_model, its_load_s = gain_s, model, load_s
    if not best_model:
        return []
    fair = int((times.of_jobs(busy.jobs) - its_load_s) / (2 * times.of_job(best_model)))
    of_model = [job_id for job_id, model in waiting if model == best_model]
    return of_model[::2][: max(1, fair)]  # every second one: both devices then go through them in the order they came
