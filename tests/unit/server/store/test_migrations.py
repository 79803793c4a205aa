"""The revisions create the schema that the code expects, and an interrupted upgrade leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from server.store import jobs, migrations, schema
from tests.support.stores import job_row, open_store, url_of


def revision(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def test_the_revisions_create_exactly_the_tables_of_the_schema(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        difference = database.read_now(lambda conn: compare_metadata(MigrationContext.configure(conn), schema.metadata))

        assert difference == []
        assert database.read_now(revision) == migrations.head()


def test_the_revisions_create_the_constraints_of_the_schema(tmp_path: Path) -> None:
    """`compare_metadata` does not compare constraints."""
    declared = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
    schema.metadata.create_all(declared)

    def constraints(conn: Connection) -> dict[str, object]:
        inspector = inspect(conn)
        return {
            table: (
                inspector.get_pk_constraint(table)["constrained_columns"],
                inspector.get_unique_constraints(table),
                inspector.get_check_constraints(table),
                inspector.get_foreign_keys(table),
            )
            for table in schema.metadata.tables
        }

    with open_store(tmp_path) as database, declared.connect() as conn:
        assert database.read_now(constraints) == constraints(conn)
    declared.dispose()


def test_a_second_start_changes_no_table(tmp_path: Path) -> None:
    def tables(conn: Connection) -> list[str]:
        return list(conn.execute(text("SELECT sql FROM sqlite_master ORDER BY name")).scalars())

    with open_store(tmp_path) as database:
        before = database.read_now(tables)
    with open_store(tmp_path) as database:
        assert database.read_now(tables) == before


def test_an_interrupted_upgrade_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = create_engine(url_of(tmp_path))
    with engine.connect() as conn:
        conn.connection.driver_connection.isolation_level = None
        conn.exec_driver_sql("BEGIN IMMEDIATE")
        migrations.upgrade(conn)
        assert revision(conn) == migrations.head()
        conn.connection.driver_connection.rollback()
        conn.rollback()
    with engine.connect() as conn:
        assert inspect(conn).get_table_names() == []
    engine.dispose()

    with open_store(tmp_path) as database:
        assert database.read_now(revision) == migrations.head()


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: conn.execute(text("UPDATE alembic_version SET version_num = '9999'")))

    from server.store.database import Database
    from server.store.opening import StoreUnusable

    database = Database(url_of(tmp_path))
    with pytest.raises(StoreUnusable, match="newer"):
        database.start()
    database.close()


def test_a_store_is_copied_before_it_is_migrated(tmp_path: Path) -> None:
    with open_store(tmp_path) as database:
        database.write_now(lambda conn: jobs.insert_job(conn, job_row("job_1")))
        database.write_now(lambda conn: conn.execute(text("UPDATE alembic_version SET version_num = '0008'")))
        database.write_now(
            lambda conn: [
                conn.execute(text(f"DROP TABLE {name}")) for name in ("open_chats", "job_inputs", "input_files")
            ]
        )
    with open_store(tmp_path) as database:
        assert database.read_now(revision) == migrations.head()
    copied = create_engine(f"sqlite:///{tmp_path / 'store.db.before-0008'}")
    with copied.connect() as conn:
        assert (revision(conn), conn.execute(text("SELECT id FROM jobs")).scalar()) == ("0008", "job_1")
    copied.dispose()
