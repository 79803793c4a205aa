"""Adds conversations with titles, and the options that clients of AUTOMATIC1111's API set per key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from server.store.schema import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Sequence = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TITLE_CHARS = 80


def upgrade() -> None:
    conversations = op.create_table(
        "conversations",
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("title", sa.JSON(), nullable=False),
        sa.Column("model", sa.String(64)),
        sa.Column("system", sa.JSON()),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("updated_at", UtcDateTime, nullable=False),
        sa.Column("last_seq", Sequence, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_key_id_last_seq", "conversations", ["key_id", "last_seq"])
    op.create_table(
        "a1111_options",
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_a1111_options"),
    )
    op.bulk_insert(conversations, _from_turns())


def _from_turns() -> list[dict[str, object]]:
    """Returns a row for each conversation in `turns`, with the beginning of its first message as title."""
    turns = sa.table(
        "turns",
        sa.column("seq", sa.Integer),
        sa.column("key_id", sa.String),
        sa.column("conversation_id", sa.String),
        sa.column("messages", sa.JSON),
        sa.column("created_at", UtcDateTime),
    )
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for turn in op.get_bind().execute(sa.select(turns).order_by(turns.c.seq)):
        user_message = next((message["content"] for message in turn.messages if message["role"] == "user"), "")
        new = {
            "key_id": turn.key_id,
            "id": turn.conversation_id,
            "title": " ".join(user_message.split())[:TITLE_CHARS] or "Untitled",
            "created_at": turn.created_at,
        }
        row = rows.setdefault((turn.key_id, turn.conversation_id), new)
        row |= {"updated_at": turn.created_at, "last_seq": turn.seq}
    return list(rows.values())
