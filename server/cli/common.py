"""What commands share: options, settings, the store beside a running server, a client of that server, tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from server.client import AgentName, AgentNameError
    from server.process.settings import Settings
    from server.store.database import Database

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where jobs, keys and results live.")]
Port = Annotated[int | None, typer.Option("--port", help="Default 3001.")]


def fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def settings(**overrides: object) -> Settings:
    from server.process.settings import SettingsError, load_settings
    from server.process.supervisor import UNUSABLE

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


@contextmanager
def connect(port: int | None, data_dir: Path | None) -> Iterator[AgentName]:
    """A client of the server that AGENTNAME_URL names, else of this machine's. What goes wrong is said, and ends the command."""
    from server.cli.exits import Exit, exit_of
    from server.client import AgentName, AgentNameError, url_of

    url = os.environ.get("AGENTNAME_URL")
    if port is not None or not url:
        chosen = settings(port=port, data_dir=data_dir)
        url, data_dir = url_of(chosen.host, chosen.port), chosen.data_dir
    try:
        with AgentName(url, data_dir=data_dir) as client:
            yield client
    except AgentNameError as error:
        fail(_say(error, url), exit_of(error))
    except KeyboardInterrupt:
        fail("Interrupted.", Exit.INTERRUPTED)


def _say(error: AgentNameError, url: str) -> str:
    from server import client

    match error:
        case client.NotReachable():
            return f"No server answers at {url} ({error}). Start one: agentname serve"
        case client.Unauthorized() if os.environ.get("AGENTNAME_API_KEY"):
            return "The server does not know the key in AGENTNAME_API_KEY."
        case client.Unauthorized():
            return "The server uses another data directory: give it with --data-dir, or a key with AGENTNAME_API_KEY."
        case client.Refused() if error.code >= 500:
            return f"The server answered {error.code}: {error.message}"
        case _:
            return str(error)


def ask(path: str, port: int | None, data_dir: Path | None, method: str = "GET", body: Any = None) -> Any:
    """The JSON of a route that the client has no method for."""
    with connect(port, data_dir) as client:
        return client.request(method, path, body)


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
