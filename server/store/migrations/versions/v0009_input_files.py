"""Adds the pictures and clips that jobs start from, and which job uses which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from server.store.schema import Sequence, UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "input_files",
        sa.Column("seq", Sequence, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("mime_type", sa.String(64), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("kept_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_name", sa.String(100), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("num_frames", sa.Integer(), nullable=False),
        sa.Column("fps", sa.Float()),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_input_files"),
        sa.UniqueConstraint("id", name="uq_input_files_id"),
    )
    op.create_index("ix_input_files_key_id_sha256", "input_files", ["key_id", "sha256"], unique=True)
    op.create_index("ix_input_files_key_id_seq", "input_files", ["key_id", "seq"])
    op.create_index("ix_input_files_expires_at", "input_files", ["expires_at"])
    op.create_table(
        "job_inputs",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("file_id", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_inputs_job_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["file_id"], ["input_files.id"], name="fk_job_inputs_file_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "file_id", name="pk_job_inputs"),
    )
    op.create_index("ix_job_inputs_file_id", "job_inputs", ["file_id"])
