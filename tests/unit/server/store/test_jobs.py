"""State changes of a job: each happens once, in one direction, and only for the attempt that owns the job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text

from server.errors import BadRequest
from server.job import State
from server.store import jobs, usage
from server.store.database import Database
from tests.support.stores import DAY, NOW, job_row, output_row

LATER = NOW + timedelta(seconds=5)
ERROR = {"code": "model_error", "message": "The model failed.", "retryable": False}


class Store:
    """Calls the functions under test, each in its own transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def accept(self, *job_ids: str, **changes: object) -> None:
        def work(conn) -> None:
            for job_id in job_ids:
                row = job_row(job_id, **changes)
                usage.charge(conn, row.key_id, DAY, "images", row.charged_units, None)
                jobs.insert_job(conn, row)

        self.database.write_now(work)

    def __call__(self, function, *arguments: object, **named: object):
        return self.database.write_now(lambda conn: function(conn, *arguments, **named))

    def state(self, job_id: str) -> State | None:
        row = self(jobs.get_job, job_id, "anna")
        return None if row is None else row.state

    def used(self) -> int:
        return self(usage.used_today, "anna", DAY)["images"]


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def test_a_job_comes_back_as_it_was_stored(store: Store) -> None:
    row = job_row(warnings=["size rounded"], error=ERROR, metrics={"queueMs": 3}, expires_at=LATER)
    store(jobs.insert_job, row)

    assert store(jobs.get_job, "job_1", "anna") == row


def test_a_job_of_another_key_is_unknown(store: Store) -> None:
    store.accept("job_1")

    assert store(jobs.get_job, "job_1", "bob") is None
    assert store(jobs.get_job, "job_2", "anna") is None


def test_a_job_runs_and_completes_with_its_outputs(store: Store) -> None:
    store.accept("job_1")
    outputs = [output_row("job_1", 0), output_row("job_1", 1, duration_s=2.5)]

    assert store(jobs.start_job, "job_1", 1, NOW)
    assert store(jobs.complete_job, "job_1", 1, outputs, {"runMs": 9}, LATER, LATER)

    row = store(jobs.get_job, "job_1", "anna")
    assert row == replace(
        job_row("job_1"),
        state=State.COMPLETED,
        started_at=NOW,
        finished_at=LATER,
        expires_at=LATER,
        metrics={"runMs": 9},
    )
    assert store(jobs.outputs_of, "job_1") == outputs
    assert store(jobs.get_output, "job_1-1") == (outputs[1], "anna")
    assert store(jobs.get_output, "other") is None
    assert store.used() == 1


END = {
    "complete": lambda store, attempt: store(jobs.complete_job, "job_1", attempt, [output_row()], None, LATER, None),
    "fail": lambda store, attempt: store(jobs.fail_job, "job_1", attempt, ERROR, LATER),
    "cancel": lambda store, attempt: store(jobs.cancel_job, "job_1", LATER, refund=True),
}


@pytest.mark.parametrize("first", END)
@pytest.mark.parametrize("second", END)
def test_a_job_that_has_ended_cannot_end_again(store: Store, first: str, second: str) -> None:
    store.accept("job_1")
    store(jobs.start_job, "job_1", 1, NOW)

    assert END[first](store, 1)
    ended = (store(jobs.get_job, "job_1", "anna"), store(jobs.outputs_of, "job_1"), store.used())
    assert not END[second](store, 1)
    assert not store(jobs.start_job, "job_1", 1, LATER)

    assert (store(jobs.get_job, "job_1", "anna"), store(jobs.outputs_of, "job_1"), store.used()) == ended


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_a_report_of_an_earlier_attempt_changes_nothing(store: Store, end: str) -> None:
    store.accept("job_1")
    store(jobs.start_job, "job_1", 1, NOW)
    store(jobs.recover_jobs, NOW, {"job_1": "step"})
    store(jobs.start_job, "job_1", 2, NOW)

    assert not END[end](store, 1)
    assert store.state("job_1") is State.PROCESSING
    assert store.used() == 1
    assert END[end](store, 2)


def test_a_failed_job_is_refunded_unless_refund_is_false(store: Store) -> None:
    store.accept("job_1", "job_2")

    assert store(jobs.fail_job, "job_1", 1, ERROR, LATER)
    assert store.used() == 1
    assert store(jobs.fail_job, "job_2", 1, ERROR, LATER, refund=False)
    assert store.used() == 1
    assert store(jobs.get_job, "job_1", "anna").error == ERROR


def test_a_canceled_job_is_refunded_only_when_refund_is_true(store: Store) -> None:
    store.accept("job_1", "job_2")
    store(jobs.start_job, "job_2", 1, NOW)

    assert store(jobs.cancel_job, "job_1", LATER, refund=True)
    assert store(jobs.cancel_job, "job_2", LATER, refund=False)
    assert (store.state("job_1"), store.state("job_2")) == (State.CANCELED, State.CANCELED)
    assert store.used() == 1


def test_recovery_queues_what_was_running_in_order_and_charges_an_attempt_to_suspects_alone(store: Store) -> None:
    store.accept("job_3", "job_1", "job_2", "job_4")
    store(jobs.start_job, "job_1", 1, NOW)
    store(jobs.start_job, "job_3", 1, NOW)
    store(jobs.complete_job, "job_4", 1, [], None, LATER, None)

    rows = store(jobs.recover_jobs, LATER, {"job_1": "step", "job_2": "admit", "job_4": "encode", "chat_1": "step"})

    assert [(row.id, row.state, row.attempt) for row in rows] == [
        ("job_3", State.QUEUED, 1),
        ("job_1", State.QUEUED, 2),
        ("job_2", State.QUEUED, 2),  # its start was not yet in the store
    ]
    assert rows[1].started_at is None
    assert rows[1].request == job_row().request


def test_a_stored_job_that_no_longer_decodes_fails_with_a_refund_and_the_others_are_recovered(store: Store) -> None:
    if store(lambda conn: conn.dialect.name) != "sqlite":
        pytest.skip("Postgres itself refuses JSON that does not decode")
    store.accept("job_1", "job_2")
    store(lambda conn: conn.execute(text("UPDATE jobs SET request = '{damaged' WHERE id = 'job_1'")))

    assert [row.id for row in store(jobs.recover_jobs, LATER)] == ["job_2"]
    row = store(jobs.get_job, "job_1", "anna")
    assert (row.state, row.error["code"], row.request) == (State.FAILED, "not_runnable", {})
    assert store.used() == 1


def test_a_job_that_was_interrupted_at_every_attempt_fails_and_is_refunded(store: Store) -> None:
    store.accept("job_1")
    for attempt in (1, 2, 3):
        assert store(jobs.start_job, "job_1", attempt, NOW)
        rows = store(jobs.recover_jobs, LATER, {"job_1": "step"})

    assert rows == []
    row = store(jobs.get_job, "job_1", "anna")
    assert (row.state, row.attempt, row.error["code"]) == (State.FAILED, 3, "engine_stopped")
    assert row.error["message"] == "The server process ended 3 times at work on this job, the last time in its step."
    assert store.used() == 0


def test_only_a_finished_job_of_the_same_key_is_deleted(store: Store) -> None:
    store.accept("job_1")
    assert store(jobs.delete_job, "job_1", "anna") == []
    assert store.state("job_1") is State.QUEUED

    store(jobs.complete_job, "job_1", 1, [output_row("job_1", 0), output_row("job_1", 1)], None, LATER, None)
    assert store(jobs.delete_job, "job_1", "bob") == []
    assert store.state("job_1") is State.COMPLETED

    assert store(jobs.delete_job, "job_1", "anna") == ["job_1-0.png", "job_1-1.png"]
    assert store.state("job_1") is None
    assert store(jobs.get_output, "job_1-0") is None
    assert store(jobs.delete_job, "job_1", "anna") == []


def test_pages_go_from_new_to_old_and_skip_no_job_when_jobs_are_added(store: Store) -> None:
    store.accept(*(f"job_{n}" for n in range(7)))
    store.accept("job_foreign", key_id="bob")

    seen, cursor = store(jobs.list_jobs, "anna", None, 3, None)
    store.accept("job_new")
    while cursor is not None:
        page, cursor = store(jobs.list_jobs, "anna", None, 3, cursor)
        seen += page

    assert [row.id for row in seen] == [f"job_{n}" for n in reversed(range(7))]


def test_a_page_that_ends_with_the_last_job_has_no_cursor(store: Store) -> None:
    store.accept("job_1", "job_2")

    rows, cursor = store(jobs.list_jobs, "anna", None, 2, None)
    assert ([row.id for row in rows], cursor) == (["job_2", "job_1"], None)


def test_jobs_are_listed_by_state(store: Store) -> None:
    store.accept("job_1", "job_2")
    store(jobs.start_job, "job_2", 1, NOW)

    assert [row.id for row in store(jobs.list_jobs, "anna", "queued", 10, None)[0]] == ["job_1"]
    assert [row.id for row in store(jobs.list_jobs, "anna", State.PROCESSING, 10, None)[0]] == ["job_2"]


@pytest.mark.parametrize("cursor", ["", "7", "c", "cx", "c-1", "c1'; --", "c" + "f" * 16, "c１"])
def test_a_cursor_that_no_page_returned_is_a_bad_request(store: Store, cursor: str) -> None:
    with pytest.raises(BadRequest, match="cursor"):
        store(jobs.list_jobs, "anna", None, 10, cursor)


def test_expired_outputs_are_deleted_with_the_prompt_and_the_job_stays(store: Store) -> None:
    store.accept("job_1", "job_2", "job_3")
    store(jobs.complete_job, "job_1", 1, [output_row("job_1")], None, NOW, LATER)
    store(jobs.complete_job, "job_2", 1, [output_row("job_2")], None, NOW, LATER + timedelta(hours=1))

    assert store(jobs.expired, LATER - timedelta(seconds=1)) == []
    assert store(jobs.expired, LATER) == ["job_1"]
    assert store(jobs.forget_outputs, "job_1") == ["job_1-0.png"]

    assert store(jobs.expired, LATER) == []
    assert store(jobs.file_names) == {"job_2-0.png"}
    row = store(jobs.get_job, "job_1", "anna")
    assert (row.state, row.request) == (State.COMPLETED, {})


def test_old_jobs_are_deleted_only_when_they_have_ended(store: Store) -> None:
    store.accept("job_1", "job_2", "job_3")
    store(jobs.complete_job, "job_1", 1, [output_row("job_1")], None, NOW, None)
    store(jobs.cancel_job, "job_2", LATER, refund=True)

    assert store(jobs.forget_jobs_before, LATER) == ["job_1-0.png"]
    assert [store.state(job_id) for job_id in ("job_1", "job_2", "job_3")] == [None, State.CANCELED, State.QUEUED]
