"""Chooses the device for a job, and the waiting jobs that an idle device takes over. Pure functions.

A new job goes to the first of these that exists; a device's queue is measured in seconds (`JobTimes`):
  1. no device, when no device that the model may use could ever hold it
  2. the device with the shortest queue among those where the model is resident, loading or needed by a queued job,
  3. but if that queue outweighs the load of a second copy: a device without jobs that has enough free memory
  4. the device with the shortest queue among those with enough free memory; among equals, the one with most free memory
  5. the device with the shortest queue among those with enough memory after evicting their idle models
  6. the device with the shortest queue
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.fleet.job_times import JobTimes

# A queue this many times as long as a load justifies a second copy of a model: the load occupies the other device.
COPY_AFTER_LOADS = 2.0


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device as the event loop knows it: the engine's latest status, and what was submitted since."""

    usable_bytes: int  # bytes that one model could have if the device held nothing else
    free_bytes: int
    evictable_bytes: int = 0  # held by idle models that are not pinned
    models: frozenset[str] = frozenset()  # resident, loading, or needed by a job assigned to the device
    jobs: Mapping[str, int] = field(default_factory=dict)  # model → number of unfinished jobs
    excluded_models: frozenset[str] = frozenset()  # models that are bound to another device

    @property
    def n_jobs(self) -> int:
        return sum(self.jobs.values())


@dataclass(frozen=True, slots=True)
class Move:
    job_id: str
    source: int
    target: int


def choose_device(model: str, need_bytes: int, devices: Sequence[DeviceView], times: JobTimes) -> int | None:
    """The index of the device for one more job of `model`; None when no device could ever hold the model."""
    queue_s = [times.queue_s(device.jobs) for device in devices]
    able = [
        i
        for i, device in enumerate(devices)
        if device.usable_bytes >= need_bytes and model not in device.excluded_models
    ]
    if not able:
        return None  # 1
    with_free_memory = [i for i in able if devices[i].free_bytes >= need_bytes]
    with_model = [i for i in able if model in devices[i].models]
    if with_model:
        shortest = min(with_model, key=lambda i: queue_s[i])
        idle = [i for i in with_free_memory if i not in with_model and not devices[i].n_jobs]
        if idle and queue_s[shortest] > COPY_AFTER_LOADS * times.load_s(model):
            return max(idle, key=lambda i: devices[i].free_bytes)  # 3
        return shortest  # 2
    if with_free_memory:
        return min(with_free_memory, key=lambda i: (queue_s[i], -devices[i].free_bytes))  # 4
    after_eviction = [i for i in able if devices[i].free_bytes + devices[i].evictable_bytes >= need_bytes]
    return min(after_eviction or able, key=lambda i: queue_s[i])  # 5, 6


def rebalance(
    devices: Sequence[DeviceView],
    waiting: Sequence[Sequence[tuple[str, str]]],
    need_bytes: Mapping[str, int],
    times: JobTimes,
) -> list[Move]:
    """The waiting jobs that devices without jobs take over, so that both devices finish at about the same time.

    waiting: per device, (job id, model) in the order in which the jobs would start. need_bytes: of every model among
    them. Jobs of a model that the idle device has to load first move only when the queue outweighs the load.
    """
    moves: list[Move] = []
    idle = [i for i, device in enumerate(devices) if not device.n_jobs]
    donors = sorted((i for i, jobs in enumerate(waiting) if jobs), key=lambda i: -times.queue_s(devices[i].jobs))
    for target, source in zip(idle, donors, strict=False):
        job_ids = _jobs_to_move(devices[source], waiting[source], devices[target], need_bytes, times)
        moves += [Move(job_id, source, target) for job_id in job_ids]
    return moves


def _jobs_to_move(
    busy: DeviceView,
    waiting: Sequence[tuple[str, str]],
    idle: DeviceView,
    need_bytes: Mapping[str, int],
    times: JobTimes,
) -> list[str]:
    """Ids of jobs of one model, the model for which a move saves most time; empty when no move saves time."""
    best_gain_s, best_model, best_load_s = 0.0, "", 0.0
    for model, count in Counter(model for _, model in waiting).items():
        if model in idle.excluded_models:
            continue
        # A second copy of a model evicts no other model.
        available = idle.free_bytes if model in busy.models else idle.free_bytes + idle.evictable_bytes
        if model not in idle.models and (idle.usable_bytes < need_bytes[model] or available < need_bytes[model]):
            continue
        load_s = 0.0 if model in idle.models else COPY_AFTER_LOADS * times.load_s(model)
        gain_s = min(count * times.job_s(model), times.queue_s(busy.jobs)) - load_s
        if gain_s > best_gain_s:
            best_gain_s, best_model, best_load_s = gain_s, model, load_s
    if not best_model:
        return []
    fair_count = int((times.queue_s(busy.jobs) - best_load_s) / (2 * times.job_s(best_model)))
    of_model = [job_id for job_id, model in waiting if model == best_model]
    # Every second job, so that both devices serve the jobs in the order of their submission.
    return of_model[::2][: max(1, fair_count)]
