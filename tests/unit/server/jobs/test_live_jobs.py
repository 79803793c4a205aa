"""The live view goes forward only."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from server.job import State
from server.jobs.live_jobs import STAGE_BEGINS, LiveJobs
from server.protocol import DeviceStatus, EngineStatus, JobProgressed, JobStarted, QueueEntry, RunningEntry
from tests.support.stores import job_row

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)


def status(*waiting: str, running: tuple[RunningEntry, ...] = ()) -> EngineStatus:
    device = DeviceStatus("cpu", 8, 2, 0, 1, 5, ())
    return EngineStatus(tuple(QueueEntry(name, "turn", 3, 9.0) for name in waiting), running, (), device)


def test_progress_never_goes_back_whatever_order_reports_come_in() -> None:
    dice = random.Random(3)
    live_jobs = LiveJobs()
    job = live_jobs.add(job_row(params={"steps": 20}))
    seen = [(job.progress, job.step)]
    for _ in range(500):
        live_jobs.progress(JobProgressed("job_1", dice.choice(list(STAGE_BEGINS)[:-1]), dice.randrange(25), 20))
        seen.append((job.progress, job.step))

    assert seen == sorted(seen)
    assert 0.9 < seen[-1][0] < 1
    assert max(step for _, step in seen) == 20


def test_denoising_fills_the_middle_evenly() -> None:
    live_jobs = LiveJobs()
    job = live_jobs.add(job_row(params={"steps": 4}))
    shares = []
    for step in range(5):
        live_jobs.progress(JobProgressed("job_1", "denoising", step, 4))
        shares.append(job.progress)

    steps = [b - a for a, b in itertools.pairwise(shares)]
    assert max(steps) == pytest.approx(min(steps))
    assert (shares[0], shares[-1]) == (STAGE_BEGINS["denoising"], pytest.approx(STAGE_BEGINS["decoding"]))


def test_places_are_those_of_the_engine_and_new_jobs_stand_behind() -> None:
    live_jobs = LiveJobs()
    a, b, c = (live_jobs.add(job_row(name)) for name in "abc")
    live_jobs.update_status(status("b", "a"))

    assert [live_jobs.place(job).position for job in (b, a, c)] == [0, 1, 2]
    assert {live_jobs.place(job).length for job in (a, b, c)} == {3}
    assert live_jobs.place(a).need_bytes == 3
    assert live_jobs.place(c).free_bytes == 5


def test_an_eta_counts_down_and_an_unknown_one_stays_unknown() -> None:
    now = [100.0]
    live_jobs = LiveJobs(lambda: now[0])
    waiting, running, unknown = (live_jobs.add(job_row(name)) for name in ("w", "r", "u"))
    live_jobs.update_status(status("w", running=(RunningEntry("r", 4.0), RunningEntry("u", None))))
    now[0] += 3

    assert (live_jobs.eta_s(waiting), live_jobs.eta_s(running), live_jobs.eta_s(unknown)) == (6.0, 1.0, None)
    now[0] += 3
    assert live_jobs.eta_s(running) == 0.0


def test_the_counts_come_back_to_nothing() -> None:
    live_jobs = LiveJobs()
    live_jobs.add(job_row("a"))
    live_jobs.add(job_row("b"))
    assert (live_jobs.n_queued, live_jobs.n_of_key("anna")) == (2, 2)
    live_jobs.start(JobStarted("a", 0, 0), AT)
    live_jobs.start(JobStarted("a", 0, 0), AT)
    assert (live_jobs.n_queued, live_jobs.n_of_key("anna")) == (1, 2)
    for name in ("a", "b", "b"):
        live_jobs.remove(name)
    assert (live_jobs.n_queued, live_jobs.n_of_key("anna"), live_jobs.view("a")) == (0, 0, None)


def test_a_started_job_is_processing_and_knows_since_when() -> None:
    live_jobs = LiveJobs()
    job = live_jobs.add(replace(job_row("a"), state=State.QUEUED))
    live_jobs.start(JobStarted("a", 12, 5), AT)

    assert (job.state, job.started_at, job.queue_ms, job.load_ms) == (State.PROCESSING, AT, 12, 5)
