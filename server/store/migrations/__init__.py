"""Upgrades a store to the newest schema inside the caller's transaction, so that an upgrade is complete or undone.

A new revision is a file in `versions/`, written by hand; `test_migrations.py` compares the tables that the revisions
create with `schema.metadata`.
"""

from __future__ import annotations

import functools
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def _config(conn: Connection | None = None) -> Config:
    config = Config(attributes={"connection": conn})
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(conn: Connection) -> None:
    if MigrationContext.configure(conn).get_current_revision() != head():
        command.upgrade(_config(conn), "head")


def older_revision(conn: Connection) -> str | None:
    """Returns the store's revision when it has tables that an upgrade would change."""
    current = MigrationContext.configure(conn).get_current_revision()
    return None if current == head() else current


@functools.cache
def head() -> str:
    """Returns the newest revision."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision
