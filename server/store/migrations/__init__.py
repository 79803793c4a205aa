"""Brings a store to the newest schema, in the caller's transaction: it is there as a whole or not at all.

A new revision is a file in `versions/`, written by hand after the last one; `test_store_migrations.py` compares what the
revisions build with `schema.metadata`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def _config(conn: Connection | None = None) -> Config:
    config = Config(attributes={"connection": conn})
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(conn: Connection) -> None:
    command.upgrade(_config(conn), "head")


def head() -> str:
    """The newest revision there is."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision
