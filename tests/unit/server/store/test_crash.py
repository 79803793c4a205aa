"""A process that accepts jobs is killed at an arbitrary moment: every job that it reported as stored is complete."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from server.job import State
from server.store import jobs, schema, usage
from tests.support.paths import ROOT
from tests.support.stores import DAY, NOW, open_store

ACCEPTING = """
import asyncio, sys
from pathlib import Path
from server.store import idempotency, jobs, usage
from tests.support.stores import DAY, NOW, job_row, open_store

async def client(database, name):
    for number in range(100_000):
        job_id = f"job_{name}_{number}"
        def accept(conn):
            idempotency.claim(conn, "anna", job_id, "f", job_id, NOW)
            usage.charge(conn, "anna", DAY, "images", 1, None)
            jobs.insert_job(conn, job_row(job_id))
        await database.write(accept)
        print(job_id, flush=True)
        await database.write(lambda conn: jobs.start_job(conn, job_id, 1, NOW))

async def main(database):
    await asyncio.gather(*(client(database, name) for name in range(8)))

with open_store(Path(sys.argv[1])) as database:
    asyncio.run(main(database))
"""


@pytest.mark.slow
@pytest.mark.parametrize("lines_before_the_kill", [1, 40, 333])
def test_every_accepted_job_survives_kill_9_with_its_charge(tmp_path: Path, lines_before_the_kill: int) -> None:
    command = [sys.executable, "-c", ACCEPTING, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    accepted = [process.stdout.readline().strip() for _ in range(lines_before_the_kill)]
    process.kill()
    accepted += [line.strip() for line in process.stdout if line.endswith("\n")]  # lines that are left in the pipe
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL

    in_order = select(schema.jobs.c.id).order_by(schema.jobs.c.seq)
    claimed = select(schema.idempotency_keys.c.job_id)
    with open_store(tmp_path) as database:  # opening also checks the file
        stored = database.read_now(lambda conn: list(conn.execute(in_order).scalars()))
        claims = database.read_now(lambda conn: list(conn.execute(claimed).scalars()))
        used = database.read_now(lambda conn: usage.used_today(conn, "anna", DAY))
        recovered = database.write_now(lambda conn: jobs.recover_jobs(conn, NOW))

    assert set(accepted) <= set(stored)
    assert sorted(claims) == sorted(stored)
    assert used["images"] == len(stored)
    assert [row.id for row in recovered] == stored
    assert {row.state for row in recovered} == {State.QUEUED}
    assert {row.attempt for row in recovered} <= {1, 2}
