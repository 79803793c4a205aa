"""Whatever the order in which a job is submitted, run, stored, canceled and deleted: it ends once, by the rule.

The rule: a job is charged when it is accepted. It is refunded once if the server failed it, or if it was canceled while
it waited; a job that was canceled while it ran, or was completed, is not. Files are those of completed jobs alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from pipelines.interface import Failed
from server.accounts.auth import ApiKey
from server.errors import NotFound
from server.job import State
from server.jobs.job_view import JobView
from server.jobs.request.generate_request import GenerateRequest
from server.store import jobs as store
from server.store import schema, usage
from tests.support.audit import audit_folder
from tests.support.interleaved_server import InterleavedServer
from tests.support.stores import DAY

INTERLEAVINGS = 1000
JOBS = 3  # at most, in one interleaving
ACCEPTED = [("submit", 1, 4), ("commit", 0, 4)]  # how each begins: with a job that may be canceled

# What happens, which job or how often, and how many turns of the event loop follow.
OPERATIONS = st.tuples(
    st.sampled_from(
        [
            "submit",  # a job of so many outputs
            "cancel",  # or delete, once it has ended
            "cancel",
            "break",  # a job: its next step fails
            "engine",  # so many turns of the engines
            "engine",
            "pool",  # a piece of work of the pool: metadata, a file, a removal
            "pool",
            "commit",  # so many writes in one transaction
        ]
    ),
    st.integers(0, 2),
    st.integers(0, 4),
)


class Play:
    """One interleaving, on a server that has played others before."""

    def __init__(self, server: InterleavedServer, key: ApiKey) -> None:
        self._server, self._key = server, key
        self._files_before, self._used_before = server.files(), self._used()
        self._n_charged = 0  # outputs
        self._submitted: list[asyncio.Task[Any]] = []
        self._asked: list[tuple[str, asyncio.Task[JobView]]] = []  # cancellations, with their job
        # By job, at its first cancellation. None: how it ends was decided already.
        self._state_when_asked: dict[str, State | None] = {}

    async def run(self, operations: list[tuple[str, int, int]]) -> None:
        for operation, n, loop_turns in [*ACCEPTED, *operations]:
            self._do(operation, n)
            await self._server.loop_turns(loop_turns)
        await self._server.settle()

    def _do(self, operation: str, n: int) -> None:
        server = self._server
        match operation:
            case "submit" if len(self._submitted) < JOBS:
                request = GenerateRequest(prompt="a lake", type="image", n=max(1, n), steps=2)
                self._n_charged += max(1, n)
                self._submitted.append(server.spawn(server.service.submission.accept(self._key, request)))
            case "cancel" if (job := self._job(n)) is not None:
                self._asked.append((job, server.spawn(self._cancel(job))))
            case "break" if (job := self._job(n)) is not None:
                for _, lane in server.threadless.lanes:
                    lane.fails[f"{job}/0"] = Failed(f"{job}/0", "invalid_output", "NaN")
            case "engine":
                server.engine_turns(2 * n + 1)
            case "pool":
                server.pool.work(n)
            case "commit":
                server.database.commit(n + 1)

    async def _cancel(self, job: str) -> JobView:
        live = self._server.service.live_jobs.get(job)
        self._state_when_asked.setdefault(job, None if live is None or live.end is not None else live.state)
        return await self._server.service.jobs.cancel(self._key, job)

    def _job(self, n: int) -> str | None:
        accepted = [task.result().job_id for task in self._submitted if task.done()]
        return accepted[n] if n < len(accepted) else None

    def check(self) -> None:
        server, files, n_refunded = self._server, self._files_before, 0
        for task in self._submitted:
            outputs, n_units = server.database.read_now(self._checked(task.result().job_id))
            files |= outputs
            n_refunded += n_units
        assert self._used() == self._used_before + self._n_charged - n_refunded
        for _, task in self._asked:
            assert isinstance(task.exception(), NotFound | None), "a job that was deleted before"
        assert server.files() == files
        assert not server.service.live_jobs.all()
        assert not server.fleet._assignments._assignments
        for engine in server.threadless.engines:
            ledger = engine._scheduler.ledger
            assert not len(engine._executor.jobs)
            assert not len(engine._scheduler.queue)
            assert ledger.booked_bytes == sum(lane.weight_bytes for lane in engine._executor.lanes.values())
        assert not any(lane.has_work() for _, lane in server.threadless.lanes)

    def _used(self) -> int:
        return self._server.database.read_now(lambda conn: usage.used_today(conn, self._key.id, DAY))["images"]

    def _checked(self, job: str) -> Callable[[Connection], tuple[set[str], int]]:
        """Returns what checks a job in the store, and returns its files and what it was refunded."""

        def check(conn: Connection) -> tuple[set[str], int]:
            row = store.get_job(conn, job, self._key.id)
            refunds = conn.execute(select(schema.refunds).where(schema.refunds.c.id == job)).all()
            told = (
                conn.execute(
                    select(schema.job_events.c.name)
                    .where(schema.job_events.c.job_id == job)
                    .order_by(schema.job_events.c.id)
                )
                .scalars()
                .all()
            )
            answers = [task.result().status for asked, task in self._asked if asked == job and not task.exception()]
            if row is None:  # it had ended, and was deleted
                assert answers
                return set(), sum(refund.units for refund in refunds)
            ended = [name for name in told if State(name).terminal]
            assert told[0] == "queued"
            assert ended == [row.state]
            assert told[-1] == row.state
            outputs = {output.file_name for output in store.outputs_of(conn, job)}
            assert len(outputs) == (row.request["n"] if row.state is State.COMPLETED else 0)
            was_refunded = row.state is State.FAILED or (row.state is State.CANCELED and row.started_at is None)
            assert len(refunds) == was_refunded
            match self._state_when_asked.get(job):
                case State.QUEUED:
                    assert (row.state, was_refunded) == (State.CANCELED, True)
                case State.PROCESSING:
                    assert row.state in (State.CANCELED, State.FAILED), "it was canceled before its end was known"
                case None:
                    pass
            return outputs, sum(refund.units for refund in refunds)

        return check


@pytest.mark.slow
def test_each_job_ends_once_and_by_the_rule_in_a_thousand_interleavings(tmp_path: Path) -> None:
    played = 0
    with asyncio.Runner() as runner:
        server = runner.run(opened(tmp_path))
        key = runner.run(server.key())

        @settings(max_examples=INTERLEAVINGS, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.lists(OPERATIONS, min_size=8, max_size=24))
        def plays(operations: list[tuple[str, int, int]]) -> None:
            nonlocal played
            played += 1
            note(str(operations))
            play = Play(server, key)
            runner.run(play.run(operations))
            play.check()

        plays()
        server.database.close()
    assert played >= INTERLEAVINGS
    (tmp_path / "data/agentname.db").symlink_to(tmp_path / "store.db")
    assert audit_folder(tmp_path / "data") == []


async def opened(folder: Path) -> InterleavedServer:
    return InterleavedServer(folder)
