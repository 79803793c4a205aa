"""Adds the webhook calls that are still to be made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column(
            "event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_webhooks"),
        sa.ForeignKeyConstraint(["event_id"], ["job_events.id"], name="fk_webhooks_event_id", ondelete="CASCADE"),
    )
    op.create_index("ix_webhooks_next_at", "webhooks", ["next_at"])
