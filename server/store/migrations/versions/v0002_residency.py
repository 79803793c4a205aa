"""Adds activation peaks and merge verdicts that the scheduler learns, and pins and keep-alives that admins set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "peaks",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("entry", sa.String(128), nullable=False),
        sa.Column("shape", sa.String(64), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", "entry", "shape", "rows", "outcome", name="pk_peaks"),
    )
    op.create_table(
        "verdicts",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        sa.Column("seen_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_verdicts"),
    )
    op.create_table(
        "residency",
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("pinned", sa.Boolean()),
        sa.Column("keep_alive_s", sa.Float()),
        sa.PrimaryKeyConstraint("model", name="pk_residency"),
    )
