"""What commands share: options, settings, the store beside a running server, a question to that server, tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from server.settings import Settings
    from server.store.database import Database

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where jobs, keys and results live.")]
Port = Annotated[int | None, typer.Option("--port", help="Default 3001.")]


def fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def settings(**overrides: object) -> Settings:
    from server.settings import SettingsError, load_settings
    from server.supervisor import UNUSABLE

    try:
        return load_settings(**overrides)
    except SettingsError as error:
        fail(str(error), UNUSABLE)


@contextmanager
def database(data_dir: Path | None) -> Iterator[Database]:
    """The store, open beside a running server: both take turns on the file's lock."""
    from server.errors import ServerError
    from server.store.database import Database, StoreUnusable

    database: Database | None = None
    try:
        database = Database(settings(data_dir=data_dir).store_url)
        database.start()
        yield database
    except (StoreUnusable, ServerError) as error:
        fail(str(error))
    finally:
        if database is not None:
            database.close()


def ask(path: str, port: int | None, data_dir: Path | None) -> Any:
    from server.client import NoServer, get

    chosen = settings(port=port, data_dir=data_dir)
    try:
        return get(chosen.host, chosen.port, chosen.data_dir, path)
    except NoServer as error:
        fail(str(error))


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a name with brackets is no markup
    console = Console()
    # Piped, lines stay whole for grep and awk.
    Console(width=None if console.is_terminal else 400).print(table)
