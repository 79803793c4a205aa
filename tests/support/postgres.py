"""A temporary Postgres cluster on a free port for the tests of the store. Those tests are skipped without Postgres."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text

INSTALLED = Path("/usr/lib/postgresql")  # where Debian installs it, one folder per version


def find_programs() -> Path | None:
    """Returns the folder of initdb and pg_ctl, or None when Postgres is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    return max((path.parent for path in INSTALLED.glob("*/bin/initdb")), default=None)


@contextmanager
def cluster(programs: Path) -> Iterator[str]:
    """Yields the URL of the database `postgres` in a new cluster. Postgres refuses to run as root, so that root runs it
    as the user `postgres`, which Debian creates.
    """
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if as_user:
            shutil.chown(folder, "postgres")

        def run(program: str, *arguments: str) -> None:
            command = [*as_user, str(programs / program), "-D", str(folder / "data"), *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

        run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")


def new_database(url: str, name: str) -> str:
    """Creates an empty database in the cluster of `url` and returns its URL."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.rsplit("/", 1)[0] + f"/{name}"
