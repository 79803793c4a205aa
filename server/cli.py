"""The command line. Imports what a command needs inside the command: `keys create` must not wait for a framework."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from server.settings import Settings
    from server.store.database import Database

app = typer.Typer(
    name="agentname",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Images, videos and chat on your own machine.",
)
keys = typer.Typer(no_args_is_help=True, help="API keys: make, list, revoke.")
app.add_typer(keys, name="keys")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where jobs, keys and results live.")]
Port = Annotated[int | None, typer.Option("--port", help="Default 3001.")]


def main() -> None:
    app()


def _fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _settings(**overrides: object) -> Settings:
    from server.settings import SettingsError, load_settings
    from server.supervisor import UNUSABLE

    try:
        return load_settings(**overrides)
    except SettingsError as error:
        _fail(str(error), UNUSABLE)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Default 127.0.0.1: this machine only.")] = None,
    port: Port = None,
    data_dir: DataDir = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Start the server. It stays until Ctrl-C, and starts itself again when the device breaks."""
    from server.logs import configure_logging
    from server.supervisor import Supervisor, listen

    said = {"host": host, "port": port, "data_dir": data_dir, "device": device, "log_level": log_level}
    settings = _settings(**said)
    configure_logging(settings.log_format, settings.log_level)
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        _fail(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. Is a server running? Try --port."
        )
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo(
            f"Listening on {settings.host}: other machines can reach this server. Give it TLS by a proxy.", err=True
        )
    # What was said here reaches the server process as its environment.
    env = os.environ | {f"AGENTNAME_{name.upper()}": str(value) for name, value in said.items() if value is not None}
    parent = str(os.getpid())
    supervisor = Supervisor(
        lambda fd, heartbeat_fd: [
            *(sys.executable, "-m", "server", "worker"),
            *("--fd", str(fd), "--heartbeat-fd", str(heartbeat_fd), "--parent-pid", parent),
        ],
        sock,
        step_timeout_s=settings.step_timeout_s,
        shutdown_grace_s=settings.shutdown_grace_s,
        env=env,
    )
    raise typer.Exit(supervisor.run())


@app.command(hidden=True)
def worker(
    fd: Annotated[int, typer.Option()],
    heartbeat_fd: Annotated[int | None, typer.Option()] = None,
    parent_pid: Annotated[int | None, typer.Option()] = None,
) -> None:
    """The server process itself, on a socket it inherits. `serve` starts it."""
    import socket

    from server.supervisor import UNUSABLE, die_with_parent

    if parent_pid is not None:
        die_with_parent(parent_pid)
    settings = _settings()
    from server.logs import configure_logging
    from server.main import run
    from server.store.database import StoreUnusable

    configure_logging(settings.log_format, settings.log_level)
    try:
        code = run(settings, socket.socket(fileno=fd), heartbeat_fd)
    except StoreUnusable as error:
        _fail(str(error), UNUSABLE)
    raise typer.Exit(code)


@contextmanager
def _database(data_dir: Path | None) -> Iterator[Database]:
    """The store, open beside a running server: both take turns on the file's lock."""
    from server.errors import ServerError
    from server.store.database import Database, StoreUnusable

    database: Database | None = None
    try:
        database = Database(_settings(data_dir=data_dir).store_url)
        database.start()
        yield database
    except (StoreUnusable, ServerError) as error:
        _fail(str(error))
    finally:
        if database is not None:
            database.close()


@keys.command("create")
def keys_create(
    plan: Annotated[str, typer.Option(help="free, pro, enterprise, or one of the config file.")],
    name: Annotated[str, typer.Option(help="Whose key it is; unique among live keys.")],
    admin: Annotated[bool, typer.Option("--admin", help="May also load, unload and pin models.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is printed alone on stdout, once: only its hash is kept."""
    from models.errors import nearest
    from server.store.keys import create_key

    plans = _settings(data_dir=data_dir).plans
    if plan not in plans:
        _fail(f"There is no plan '{plan}'.{nearest(plan, plans)} The plans are: {', '.join(plans)}.")
    if not 0 < len(name) <= 100 or not name.isprintable():
        _fail("A name has 1 to 100 printable characters.")
    scopes = {"use", "admin"} if admin else {"use"}
    with _database(data_dir) as database:
        row, key = database.write_now(lambda conn: create_key(conn, name, plan, scopes, datetime.now(UTC)))
    typer.echo(f"{row.id}: plan {plan}, scopes {' '.join(sorted(scopes))}. The key is shown only now:", err=True)
    typer.echo(key)


@keys.command("list")
def keys_list(data_dir: DataDir = None) -> None:
    """All keys, revoked ones too, without the keys themselves."""
    from server.store.keys import list_keys

    with _database(data_dir) as database:
        rows = database.read_now(list_keys)
    _print_table(
        ["id", "key", "name", "plan", "scopes", "created", "revoked"],
        [
            [
                row.id,
                f"{row.hint}…",
                row.name,
                row.plan,
                " ".join(sorted(row.scopes)),
                _day(row.created_at),
                _day(row.revoked_at),
            ]
            for row in rows
        ],
    )


@keys.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="Its id, its name, or how it begins.")], data_dir: DataDir = None
) -> None:
    """End a key. A running server refuses it within a second."""
    from server.store.keys import revoke_key

    with _database(data_dir) as database:
        row = database.write_now(lambda conn: revoke_key(conn, key, datetime.now(UTC)))
    typer.echo(f"Revoked {row.id} ({row.name}).")


def _ask(path: str, port: int | None, data_dir: Path | None) -> Any:
    from server.client import NoServer, get

    settings = _settings(port=port, data_dir=data_dir)
    try:
        return get(settings.host, settings.port, settings.data_dir, path)
    except NoServer as error:
        _fail(str(error))


@app.command()
def ps(port: Port = None, data_dir: DataDir = None) -> None:
    """What is in memory, and what runs and waits."""
    from server.client import size

    devices = _ask("/api/gpu", port, data_dir)["devices"]
    held = [[d["name"], h["name"], h["kind"], size(h["bytes"])] for d in devices for h in d["holders"]]
    if held:
        _print_table(["device", "holder", "kind", "size"], held)
    else:
        typer.echo("No model is in memory.")
    for device in devices:
        typer.echo(
            f"{device['name']}: {size(device['used'])} of {size(device['total'])} used, {size(device['free'])} free"
        )
    live = [
        [job["jobId"], job["type"], job["model"], job["status"], f"{job['progress']:.0%}"]
        for status in ("processing", "queued")
        for job in _ask(f"/api/jobs?status={status}", port, data_dir)["jobs"]
    ]
    if live:
        _print_table(["job", "type", "model", "status", "progress"], live)


@app.command("list")
def list_models(port: Port = None, data_dir: DataDir = None) -> None:
    """The models there are."""
    from server.client import size

    models = _ask("/api/models", port, data_dir)["models"]
    _print_table(
        ["model", "type", "state", "size", "dtype"],
        [[m["name"], m["type"], m["state"], size(m["bytes"]), m.get("dtype") or ""] for m in models],
    )


@app.command()
def doctor(port: Port = None, data_dir: DataDir = None) -> None:
    """Look for what would keep the server from working, and say how to mend it."""
    from server.doctor import examine

    findings = examine(_settings(port=port, data_dir=data_dir))
    marks = {True: "ok", False: "FAILED", None: "note"}
    _print_table(
        ["check", "", "found", "to mend it"], [[f.check, marks[f.ok], f.found, "" if f.ok else f.fix] for f in findings]
    )
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a name with brackets is no markup
    console = Console()
    # Piped, lines stay whole for grep and awk.
    Console(width=None if console.is_terminal else 400).print(table)
