"""`serve`: starts the supervisor. `worker`, a hidden command: the server process, which the supervisor restarts."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from server.cli.connection import DataDir, Port, settings
from server.cli.output import fail

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default 127.0.0.1: this machine only.")
    ] = None,
    port: Port = None,
    data_dir: DataDir = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default auto.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. Default info.")] = None,
) -> None:
    """Start the server. It runs until Ctrl-C, and restarts itself after a fatal device error."""
    from server.marks import MARKS
    from server.process.log_relay import open_missing_output, relay_output
    from server.process.logs import configure_logging
    from server.process.malloc import with_heap
    from server.process.supervisor import Supervisor, listen

    open_missing_output()
    options = {"host": host, "port": port, "data_dir": data_dir, "device": device, "log_level": log_level}
    chosen = settings(**options)
    configure_logging(chosen.log_format, chosen.log_level)
    try:
        sock = listen(chosen.host, chosen.port)
    except OSError as error:
        fail(
            f"Cannot listen on {chosen.host}:{chosen.port}: {error.strerror or error}. Is a server running? Try --port."
        )
    if chosen.host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo(
            f"Listening on {chosen.host}: other machines can reach this server. Use a proxy to add TLS.", err=True
        )
    # The options reach the server process through its environment.
    env = os.environ | {f"AGENTNAME_{name.upper()}": str(value) for name, value in options.items() if value is not None}
    if chosen.log_format == "auto":  # the server process sees the relay and not the terminal
        env["AGENTNAME_LOG_FORMAT"] = "console" if sys.stderr.isatty() else "json"
    if sys.stderr.isatty() and sys.stdout.isatty():
        env["FORCE_COLOR"] = "1"
    relays = relay_output()
    parent = str(os.getpid())
    supervisor = Supervisor(
        lambda fd, heartbeat_fd: [
            *(sys.executable, "-m", "server", "worker"),
            *("--fd", str(fd), "--heartbeat-fd", str(heartbeat_fd), "--parent-pid", parent),
        ],
        sock,
        step_timeout_s=chosen.step_timeout_s,
        shutdown_grace_s=chosen.shutdown_grace_s,
        marks=chosen.data_dir / MARKS,
        env=with_heap(env),
    )
    code = supervisor.run()
    for relay in relays:
        relay.flush()
    raise typer.Exit(code)


@app.command(hidden=True)
def worker(
    fd: Annotated[int, typer.Option()],
    heartbeat_fd: Annotated[int | None, typer.Option()] = None,
    parent_pid: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Runs the server process on an inherited socket. `serve` starts it."""
    import faulthandler
    import logging
    import signal
    import socket

    from server.process.supervisor import UNUSABLE, die_with_parent

    if parent_pid is not None:
        die_with_parent(parent_pid)
    chosen = settings()
    from server.process.logs import configure_logging
    from server.process.main import run
    from server.store.opening import StoreUnusable

    configure_logging(chosen.log_format, chosen.log_level)
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the supervisor asks a hung process where it stands
    try:
        code = run(chosen, socket.socket(fileno=fd), heartbeat_fd)
    except StoreUnusable as error:
        fail(str(error), UNUSABLE)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an exit would destroy what a device thread that is still in a long forward uses
