"""`backup` and `restore`: everything of the data folder that cannot be made or fetched again, in one file.

The database is copied by SQLite's own online backup, so a backup can be made while the server runs.
"""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from server.cli.connection import DataDir, settings
from server.cli.output import fail

app = typer.Typer()

DATABASE = "agentname.db"
SECRETS = ("link-secret", "webhook-secret")  # which sign links and webhooks
CONFIGURATION = ("models.toml", "agentname.toml")
FOLDERS = ("outputs", "inputs", "loras")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, such as agentname.tar. It must not exist yet.")],
    results: Annotated[bool, typer.Option(help="Also the pictures and clips, and the files of jobs and LoRAs.")] = True,
    data_dir: DataDir = None,
) -> None:
    """Write keys, jobs, usage, conversations and results to one file, also while the server runs.

    Checkpoints are not in it. Whoever has the file has what the server has: keep it as safe.
    """
    import os
    import sqlite3

    from server.store import sqlite_copies

    folder = _sqlite_folder(data_dir)
    if file.exists():
        fail(f"{file} exists.")
    names = [*SECRETS, *CONFIGURATION, *(FOLDERS if results else ())]
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        with tempfile.TemporaryDirectory(dir=file.absolute().parent) as beside:
            copied = Path(beside) / DATABASE
            # Before the files: one that is made meanwhile is not in the database, and is swept after a restore.
            sqlite_copies.copy_file(folder / DATABASE, copied)
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
                with tarfile.open(fileobj=target, mode="w") as archive:
                    archive.add(copied, DATABASE)
                    for name in names:
                        if (folder / name).exists():
                            archive.add(folder / name, name, filter=_kept)
                target.flush()
                os.fsync(target.fileno())
        unfinished.rename(file)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)
        fail(f"The backup could not be written: {error}")
    typer.echo(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `agentname backup` wrote.")],
    data_dir: DataDir = None,
) -> None:
    """Put a backup in place of what is there. The server must be stopped.

    What is there is kept beside it, under names that end in .before-restore.
    """
    from server.process.data_folder import lock_of
    from server.store import sqlite_copies
    from server.store.opening import StoreUnusable

    folder = settings(data_dir=data_dir).data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_of(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as name:
            unpacked = Path(name)
            with tarfile.open(file) as archive:
                archive.extractall(unpacked, filter="data")
            database = unpacked / DATABASE
            fault = sqlite_copies.fault_in(database) if database.is_file() else "it has no database"
            if fault:
                fail(f"{file} is no sound backup: {fault}. Nothing was changed.")
            for journal in sqlite_copies.JOURNALS:
                _set_aside(folder / f"{DATABASE}{journal}")
            for path in unpacked.iterdir():
                if path.name in (DATABASE, *SECRETS, *CONFIGURATION, *FOLDERS):
                    _set_aside(folder / path.name)
                    path.rename(folder / path.name)
    except (OSError, tarfile.TarError, StoreUnusable) as error:
        fail(f"The backup could not be restored: {error}")
    typer.echo(f"Restored to {folder}. Start the server: agentname serve")


def _sqlite_folder(data_dir: Path | None) -> Path:
    chosen = settings(data_dir=data_dir)
    if chosen.database_url is not None:
        fail("The store is at database_url: back it up with its own tools, such as pg_dump, and copy the data folder.")
    if not (chosen.data_dir / DATABASE).is_file():
        fail(f"{chosen.data_dir} has no {DATABASE}: no server has run with this data folder.")
    return chosen.data_dir


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Files and folders alone, without those that are being written."""
    return entry if (entry.isfile() or entry.isdir()) and "unfinished" not in Path(entry.name).parts else None


def _set_aside(path: Path) -> None:
    if not path.exists():
        return
    aside = path.with_name(f"{path.name}.before-restore")
    n = 1
    while aside.exists():
        n += 1
        aside = path.with_name(f"{path.name}.before-restore-{n}")
    path.rename(aside)
