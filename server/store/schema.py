"""The tables. The same statements run on SQLite and on Postgres.

A change here needs a new revision in `migrations/versions`; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """Accepts and returns aware datetimes and stores UTC. SQLite has no time zones, so it holds naive UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "a naive datetime is ambiguous"
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert isinstance(value, datetime)
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite generates row numbers only for a column whose type is exactly INTEGER.
Sequence = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("hint", String(16), nullable=False),  # first characters of the key, for lists and for `keys revoke`
    Column("digest", LargeBinary(32), nullable=False, unique=True),  # SHA-256 of the key, which is not stored itself
    Column("plan", String(64), nullable=False),
    Column("scopes", String(100), nullable=False),  # sorted, separated by spaces
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),  # order of acceptance
    Column("id", String(64), nullable=False, unique=True),
    Column("key_id", String(40), nullable=False),  # no foreign key: the local key is never stored
    Column("type", String(8), nullable=False),
    Column("model", String(64), nullable=False),
    Column("state", String(12), nullable=False),
    Column("request", JSON, nullable=False),  # all that is needed to run the job again; emptied when its outputs expire
    Column("params", JSON, nullable=False),
    Column("warnings", JSON, nullable=False),
    Column("charged_day", String(10)),  # the UTC day that a refund is booked on
    Column("charged_kind", String(8)),
    Column("charged_units", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),  # a report of an earlier attempt is ignored
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Column("error", JSON(none_as_null=True)),
    Column("metrics", JSON(none_as_null=True)),
)
Index("ix_jobs_key_id_seq", jobs.c.key_id, jobs.c.seq)
Index("ix_jobs_state_seq", jobs.c.state, jobs.c.seq)
Index("ix_jobs_expires_at", jobs.c.expires_at)

outputs = Table(
    "outputs",
    metadata,
    Column("id", String(22), primary_key=True),
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("index", Integer, nullable=False),
    Column("mime_type", String(64), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("duration_s", Float),
    Column("seed", BigInteger, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("file_name", String(100), nullable=False),
    Column("flagged", Boolean),  # True: a safety checker blacked it out
)

usage = Table(
    "usage",
    metadata,
    Column("key_id", String(40), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("used", Integer, nullable=False),
    CheckConstraint("used >= 0", name="used"),
)

refunds = Table(
    "refunds",
    metadata,
    Column("id", String(64), primary_key=True),  # id of the job or chat, so that a second refund cannot be written
    Column("key_id", String(40), nullable=False),
    Column("day", String(10), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("units", Integer, nullable=False),
)

open_chats = Table(
    "open_chats",
    metadata,
    Column("id", String(64), primary_key=True),  # that of the refund
    Column("key_id", String(40), nullable=False),
    Column("day", String(10), nullable=False),
    Column("units", Integer, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key_id", String(40), primary_key=True),
    Column("idempotency_key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),  # hash of the request's body
    Column("job_id", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
)

turns = Table(
    "turns",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),
    Column("key_id", String(40), nullable=False),
    Column("conversation_id", String(64), nullable=False),
    Column("messages", JSON, nullable=False),  # not Text: Postgres text cannot hold the character NUL, escaped JSON can
    Column("created_at", UtcDateTime, nullable=False, index=True),
)
Index("ix_turns_key_id_conversation_id_seq", turns.c.key_id, turns.c.conversation_id, turns.c.seq)

conversations = Table(
    "conversations",
    metadata,
    Column("key_id", String(40), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("title", JSON, nullable=False),  # JSON for the same reason as `turns.messages`
    Column("model", String(64)),  # of the latest reply; None in rows written before this column existed
    Column("system", JSON(none_as_null=True)),  # the system prompt of the latest reply
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("last_seq", Sequence, nullable=False),  # of its latest turn; the list is ordered by it, and cursors hold it
)
Index("ix_conversations_key_id_last_seq", conversations.c.key_id, conversations.c.last_seq)

responses = Table(
    "responses",
    metadata,
    Column("key_id", String(40), primary_key=True),
    Column("id", String(32), primary_key=True),
    Column("previous_id", String(32)),  # no foreign key: a response may be deleted, or expire, before those after it
    Column("items", JSON, nullable=False),  # what was added to the earlier responses before this one
    Column("response", JSON, nullable=False),
    Column("n_bytes", Integer, nullable=False),  # of both as JSON
    Column("created_at", UtcDateTime, nullable=False, index=True),
)

a1111_options = Table(
    "a1111_options",
    metadata,
    Column("key_id", String(40), primary_key=True),
    Column("options", JSON, nullable=False),  # as received by POST /sdapi/v1/options
)

peaks = Table(
    "peaks",
    metadata,
    Column("fingerprint", String(64), primary_key=True),  # hash of the checkpoint, its dtype and the kind of device
    Column("entry", String(128), primary_key=True),  # "transformer.forward"
    Column("shape", String(64), primary_key=True),  # "128x128x1"
    Column("rows", Integer, primary_key=True, autoincrement=False),
    Column("outcome", String(16), primary_key=True),  # "peak": took n_bytes; "out_of_memory": n_bytes were not enough
    Column("units", BigInteger, nullable=False),  # pixels times frames, or tokens
    Column("n_bytes", BigInteger, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("verdict", JSON, nullable=False),  # in the lane's own format
    Column("seen_at", UtcDateTime, nullable=False),
)

residency = Table(
    "residency",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("pinned", Boolean),  # None: the model's entry applies
    Column("keep_alive_s", Float),  # None: the model's entry or the setting applies; -1: never unload
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", Sequence, primary_key=True, autoincrement=True),  # in the order of commits; never reused
    Column("key_id", String(40), nullable=False),
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(12), nullable=False),  # queued, completed, failed, canceled
    sqlite_autoincrement=True,
)
Index("ix_job_events_key_id_id", job_events.c.key_id, job_events.c.id)

webhooks = Table(
    "webhooks",
    metadata,
    Column(
        "event_id", Sequence, ForeignKey("job_events.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    Column("url", String(2000), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", UtcDateTime, nullable=False, index=True),
)

input_files = Table(
    "input_files",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=True),  # order of arrival
    Column("id", String(32), nullable=False, unique=True),
    Column("key_id", String(40), nullable=False),
    Column("sha256", String(64), nullable=False),  # of the file as it was sent, as the next two
    Column("mime_type", String(64), nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
    Column("kept_bytes", BigInteger, nullable=False),  # of the file on disk
    Column("file_name", String(100), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("num_frames", Integer, nullable=False),
    Column("fps", Float),  # None: a picture
    Column("warnings", JSON, nullable=False),
    Column("listed", Boolean, nullable=False),  # False: it came with a request, and goes with the jobs that use it
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)
Index("ix_input_files_key_id_sha256", input_files.c.key_id, input_files.c.sha256, unique=True)
Index("ix_input_files_key_id_seq", input_files.c.key_id, input_files.c.seq)

job_inputs = Table(
    "job_inputs",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("file_id", String(32), ForeignKey("input_files.id", ondelete="CASCADE"), primary_key=True, index=True),
)
