"""What clients are told of a job that has ended."""

from __future__ import annotations

from server.job import State
from server.jobs.job_view import of_row
from tests.support.stores import job_row


def test_a_job_that_left_out_steps_tells_how_many_ran() -> None:
    row = job_row(state=State.COMPLETED, params={"steps": 20}, metrics={"runMs": 9, "totalSteps": 6})

    view = of_row(row, ())

    assert (view.step, view.total_steps, view.params["steps"]) == (6, 6, 20)
    assert view.metrics == {"runMs": 9}


def test_a_job_that_was_stored_without_its_steps_tells_those_of_its_request() -> None:
    view = of_row(job_row(state=State.COMPLETED, params={"steps": 20}, metrics={"runMs": 9}), ())

    assert (view.step, view.total_steps) == (20, 20)
