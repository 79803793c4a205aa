"""Executed by alembic for each command; passes it the connection that `upgrade` received."""

from __future__ import annotations

from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationInfo

from pipelines.fault_points import reach
from server.store.schema import metadata


def _applied(*, step: MigrationInfo, **_: Any) -> None:
    reach("migrate", step.up_revision_id)  # done, and not committed


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite can alter a table only by copying it
    on_version_apply=_applied,  # type: ignore[arg-type]  # alembic passes all arguments by name
)
with context.begin_transaction():
    context.run_migrations()
