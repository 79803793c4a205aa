"""The live view goes forward only."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from server.board import STAGE_BEGINS, Board
from server.jobs import DeviceStatus, EngineStatus, JobProgressed, JobStarted, QueueEntry, RunningEntry, State
from tests.stores import job_row

AT = datetime(2026, 11, 24, 9, tzinfo=UTC)


def status(*waiting: str, running: tuple[RunningEntry, ...] = ()) -> EngineStatus:
    device = DeviceStatus("cpu", 8, 2, 0, 1, 5, ())
    return EngineStatus(tuple(QueueEntry(name, "turn", 3, 9.0) for name in waiting), running, (), device)


def test_progress_never_goes_back_whatever_order_reports_come_in() -> None:
    dice = random.Random(3)
    board = Board()
    job = board.add(job_row(params={"steps": 20}))
    seen = [(job.progress, job.step)]
    for _ in range(500):
        board.apply(JobProgressed("job_1", dice.choice(list(STAGE_BEGINS)[:-1]), dice.randrange(25), 20))
        seen.append((job.progress, job.step))

    assert seen == sorted(seen)
    assert 0.9 < seen[-1][0] < 1
    assert max(step for _, step in seen) == 20


def test_denoising_fills_the_middle_evenly() -> None:
    board = Board()
    job = board.add(job_row(params={"steps": 4}))
    shares = []
    for step in range(5):
        board.apply(JobProgressed("job_1", "denoising", step, 4))
        shares.append(job.progress)

    steps = [b - a for a, b in itertools.pairwise(shares)]
    assert max(steps) == pytest.approx(min(steps))
    assert (shares[0], shares[-1]) == (STAGE_BEGINS["denoising"], pytest.approx(STAGE_BEGINS["decoding"]))


def test_places_are_those_of_the_engine_and_new_jobs_stand_behind() -> None:
    board = Board()
    a, b, c = (board.add(job_row(name)) for name in "abc")
    board.apply(status("b", "a"))

    assert [board.place(job).position for job in (b, a, c)] == [0, 1, 2]
    assert {board.place(job).length for job in (a, b, c)} == {3}
    assert board.place(a).need_bytes == 3
    assert board.place(c).free_bytes == 5


def test_an_eta_counts_down_and_an_unknown_one_stays_unknown() -> None:
    now = [100.0]
    board = Board(lambda: now[0])
    waiting, running, unknown = (board.add(job_row(name)) for name in ("w", "r", "u"))
    board.apply(status("w", running=(RunningEntry("r", 4.0), RunningEntry("u", None))))
    now[0] += 3

    assert (board.eta_s(waiting), board.eta_s(running), board.eta_s(unknown)) == (6.0, 1.0, None)
    now[0] += 3
    assert board.eta_s(running) == 0.0


def test_the_counts_come_back_to_nothing() -> None:
    board = Board()
    board.add(job_row("a"))
    board.add(job_row("b"))
    assert (board.n_queued, board.n_of_key("anna")) == (2, 2)
    board.apply(JobStarted("a", 0, 0), AT)
    board.apply(JobStarted("a", 0, 0), AT)
    assert (board.n_queued, board.n_of_key("anna")) == (1, 2)
    for name in ("a", "b", "b"):
        board.remove(name)
    assert (board.n_queued, board.n_of_key("anna"), board.view("a")) == (0, 0, None)


def test_a_started_job_is_processing_and_knows_since_when() -> None:
    board = Board()
    job = board.add(replace(job_row("a"), state=State.QUEUED))
    board.apply(JobStarted("a", 12, 5), AT)

    assert (job.state, job.started_at, job.queue_ms, job.load_ms) == (State.PROCESSING, AT, 12, 5)
