"""Options that select a server or a store, and functions that open them: settings, store, client, single requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.output import fail

if TYPE_CHECKING:
    from server.client import AgentName, AgentNameError
    from server.process.settings import Settings
    from server.store.database import Database

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of the jobs, keys and results.")]
Port = Annotated[int | None, typer.Option("--port", help="Port of the server. Default 3001.")]


def settings(**overrides: object) -> Settings:
    from server.process.settings import SettingsError, load_settings
    from server.process.supervisor import UNUSABLE

    try:
        return load_settings(**overrides)
    except SettingsError as error:
        fail(str(error), UNUSABLE)


@contextmanager
def database(data_dir: Path | None) -> Iterator[Database]:
    """Opens the store, also while a server uses it: the two take turns on the file's lock."""
    from server.errors import ServerError
    from server.store.database import Database
    from server.store.opening import StoreUnusable

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
    """Yields a client of the server in AGENTNAME_URL, else of the server on this machine.

    An error of the client is printed and ends the command with its exit code.
    """
    from server.cli.exit_codes import Exit, exit_of
    from server.client import AgentName, AgentNameError, url_of

    url = os.environ.get("AGENTNAME_URL")
    if port is not None or not url:
        chosen = settings(port=port, data_dir=data_dir)
        url, data_dir = url_of(chosen.host, chosen.port), chosen.data_dir
    try:
        with AgentName(url, data_dir=data_dir) as client:
            yield client
    except AgentNameError as error:
        fail(_explain(error, url), exit_of(error))
    except KeyboardInterrupt:
        fail("Interrupted.", Exit.INTERRUPTED)


def _explain(error: AgentNameError, url: str) -> str:
    from server import client

    match error:
        case client.NotReachable():
            return f"No server answers at {url} ({error}). Start one: agentname serve"
        case client.Unauthorized() if os.environ.get("AGENTNAME_API_KEY"):
            return "The server does not know the key in AGENTNAME_API_KEY."
        case client.Unauthorized():
            return "The server uses another data directory: pass it with --data-dir, or set AGENTNAME_API_KEY to a key."
        case client.Refused() if error.code >= 500:
            return f"The server answered {error.code}: {error.message}"
        case _:
            return str(error)


def ask(path: str, port: int | None, data_dir: Path | None, method: str = "GET", body: Any = None) -> Any:
    """Sends one request to a route that the client has no method for, and returns its JSON."""
    with connect(port, data_dir) as client:
        return client.request(method, path, body)
