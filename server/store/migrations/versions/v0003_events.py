"""Adds the numbered state changes of jobs, which event streams replay."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Sequence = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "job_events",
        sa.Column("id", Sequence, autoincrement=True, nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(12), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_job_events"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_events_job_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_events_job_id", "job_events", ["job_id"])
    op.create_index("ix_job_events_key_id_id", "job_events", ["key_id", "id"])
    # Existing jobs get their events now, so that their streams begin and end like any other.
    for states, name in (("'queued','processing'", "'queued'"), ("'completed','failed','canceled'", "state")):
        rows = f"SELECT key_id, id, {name} FROM jobs WHERE state IN ({states}) ORDER BY seq"  # noqa: S608  # constants
        op.execute(f"INSERT INTO job_events (key_id, job_id, name) {rows}")
