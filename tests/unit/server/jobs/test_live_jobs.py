"""The live state of jobs: progress, positions, etas and counts."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from server.engine_status import DeviceStatus, EngineStatus, QueueEntry, RunningEntry
from server.job import State
from server.jobs.live_jobs import STAGE_START_PROGRESS, LiveJobs
from server.protocol import JobProgressed, JobStarted
from tests.support.stores import job_row

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)


def status(*waiting: str, running: tuple[RunningEntry, ...] = ()) -> EngineStatus:
    device = DeviceStatus("cpu", 8, 2, 0, 1, 5, ())
    return EngineStatus(tuple(QueueEntry(name, "turn", 3, 9.0) for name in waiting), running, (), device)


def test_progress_never_decreases_whatever_the_order_of_reports() -> None:
    rng = random.Random(3)
    stages = list(STAGE_START_PROGRESS)[:-1]
    live_jobs = LiveJobs()
    job = live_jobs.add(job_row(params={"steps": 20}))
    seen = [(job.progress, job.step)]
    for _ in range(500):
        live_jobs.update_progress(JobProgressed("job_1", rng.choice(stages), rng.randrange(25), 20))
        seen.append((job.progress, job.step))

    assert seen == sorted(seen)
    assert 0.9 < seen[-1][0] < 1
    assert max(step for _, step in seen) == 20


def test_denoising_steps_advance_the_progress_evenly() -> None:
    live_jobs = LiveJobs()
    job = live_jobs.add(job_row(params={"steps": 4}))
    progress = []
    for step in range(5):
        live_jobs.update_progress(JobProgressed("job_1", "denoising", step, 4))
        progress.append(job.progress)

    steps = [b - a for a, b in itertools.pairwise(progress)]
    assert max(steps) == pytest.approx(min(steps))
    assert progress[0] == STAGE_START_PROGRESS["denoising"]
    assert progress[-1] == pytest.approx(STAGE_START_PROGRESS["decoding"])


def test_positions_are_those_of_the_engine_and_jobs_it_does_not_list_are_behind() -> None:
    live_jobs = LiveJobs()
    a, b, c = (live_jobs.add(job_row(name)) for name in "abc")
    live_jobs.update_status(status("b", "a"))

    assert [live_jobs.queue_position(job).position for job in (b, a, c)] == [0, 1, 2]
    assert {live_jobs.queue_position(job).length for job in (a, b, c)} == {3}
    assert live_jobs.queue_position(a).need_bytes == 3
    assert live_jobs.queue_position(c).free_bytes == 5


def test_an_eta_counts_down_and_an_unknown_one_stays_unknown() -> None:
    now = [100.0]
    live_jobs = LiveJobs(lambda: now[0])
    waiting, running, unknown = (live_jobs.add(job_row(name)) for name in ("w", "r", "u"))
    live_jobs.update_status(status("w", running=(RunningEntry("r", 4.0), RunningEntry("u", None))))
    now[0] += 3

    assert (live_jobs.eta_s(waiting), live_jobs.eta_s(running), live_jobs.eta_s(unknown)) == (6.0, 1.0, None)
    now[0] += 3
    assert live_jobs.eta_s(running) == 0.0


def test_the_counts_return_to_zero() -> None:
    live_jobs = LiveJobs()
    live_jobs.add(job_row("a"))
    live_jobs.add(job_row("b"))
    assert (live_jobs.n_queued, live_jobs.n_of_key("anna")) == (2, 2)
    live_jobs.start(JobStarted("a", 0, 0), AT)
    live_jobs.start(JobStarted("a", 0, 0), AT)
    assert (live_jobs.n_queued, live_jobs.n_of_key("anna")) == (1, 2)
    for name in ("a", "b", "b"):
        live_jobs.remove(name)
    assert (live_jobs.n_queued, live_jobs.n_of_key("anna"), live_jobs.get("a")) == (0, 0, None)


def test_a_started_job_is_processing_with_its_start_time() -> None:
    live_jobs = LiveJobs()
    job = live_jobs.add(replace(job_row("a"), state=State.QUEUED))
    live_jobs.start(JobStarted("a", 12, 5), AT)

    assert (job.state, job.started_at, job.queue_ms, job.load_ms) == (State.PROCESSING, AT, 12, 5)
