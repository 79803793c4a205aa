"""`ps`, `load`, `stop`, `pin` and `unpin`: show and change which models are in memory."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.connection import DataDir, Port, ask, connect
from server.cli.output import fail, print_table
from server.units import size

if TYPE_CHECKING:
    from server.client.replies import Model

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="Name of a model: agentname list")]
KeepAlive = Annotated[
    str | None, typer.Option("--keep-alive", help="Idle time until the model is unloaded: 10m, 2h, 0, or -1 for ever.")
]
POLL_S = 0.25
BUSY_NOTICE_S = 2.0  # a load that has not begun after this time is explained once


@app.command()
def ps(port: Port = None, data_dir: DataDir = None) -> None:
    """Show the models in memory, how long they stay, device memory, and running and waiting jobs."""
    with connect(port, data_dir) as client:
        devices, models = client.gpu(), client.models()
        live = [job for status in ("processing", "queued") for job in client.jobs(status).jobs]
    models = [model for model in models if model.state not in ("available", "incomplete")]
    if models:
        now = datetime.now(UTC)
        rows = [
            [m.name, m.type, size(m.n_bytes), m.state, ", ".join(m.devices), until(m, now), f"{m.running}+{m.waiting}"]
            for m in models
        ]
        print_table(["model", "type", "size", "state", "device", "until", "jobs"], rows)
    else:
        typer.echo("No model is in memory.")
    for d in devices:
        others = f" ({size(d.others)} by other programs)" if d.others else ""
        typer.echo(f"{d.name}: {size(d.used)} of {size(d.total)} used{others}, {size(d.free)} free")
    if live:
        jobs = [[job.job_id, job.type, job.model, job.status, f"{job.progress:.0%}"] for job in live]
        print_table(["job", "type", "model", "status", "progress"], jobs)


@app.command()
def load(name: Name, keep_alive: KeepAlive = None, port: Port = None, data_dir: DataDir = None) -> None:
    """Load a model into memory and wait until it is loaded."""
    ask(f"/api/models/{name}/load", port, data_dir, "POST", {} if keep_alive is None else {"keepAlive": keep_alive})
    with connect(port, data_dir) as client:
        requested_at, explained = time.monotonic(), False
        while True:
            model = next((model for model in client.models() if model.name == name), None)
            if model is None:
                fail(f"{name} was removed.")
            if model.state == "resident":
                break
            if model.state == "failed":
                retry = f"It is tried again in {model.retry_in_seconds} s."
                fail(f"{_why(model)} {retry}")
            explained = explained or model.state == "loading"
            if model.state == "available" and not explained and time.monotonic() - requested_at > BUSY_NOTICE_S:
                typer.echo(
                    "Not loading yet: the device is busy, or other models use its memory. "
                    "After Ctrl-C the server still loads the model when it can.",
                    err=True,
                )
                explained = True
            time.sleep(POLL_S)
    typer.echo(f"{name} is in memory: {size(model.n_bytes)} on {', '.join(model.devices)}.")


def _why(model: Model) -> str:
    """Why a load failed, with the library's own error where this key may see it."""
    if model.failure is None:
        return f"{model.name} failed to load. The server's log has the reason."
    return f"{model.failure.message} {model.failure.detail or ''}".strip()


@app.command()
def stop(name: Name, port: Port = None, data_dir: DataDir = None) -> None:
    """Unload a model from memory once its running jobs have finished."""
    model = ask(f"/api/models/{name}/unload", port, data_dir, "POST")
    running = model["running"]
    after = f" after {running} running job{'s' * (running != 1)}" if running else ""
    typer.echo(f"{name} is unloaded{after}.")


@app.command()
def pin(name: Name, port: Port = None, data_dir: DataDir = None) -> None:
    """Pin a model: once loaded, it stays in memory. The pin survives a restart of the server."""
    ask(f"/api/models/{name}/pin", port, data_dir, "POST")
    typer.echo(f"{name} is pinned.")


@app.command()
def unpin(name: Name, port: Port = None, data_dir: DataDir = None) -> None:
    """Remove the pin, so that the model can be evicted again."""
    ask(f"/api/models/{name}/unpin", port, data_dir, "POST")
    typer.echo(f"{name} is no longer pinned.")


def until(model: Model, now: datetime) -> str:
    """Returns how long an idle model stays in memory, as in "4m 59s"."""
    if model.state == "failed":
        return f"tried again in {model.retry_in_seconds}s"
    if model.state == "loading":
        return ""
    if model.pinned:
        return "pinned"
    if model.idle_unload_at is None:
        return "in use" if model.running else "for ever"
    left = max(0, round((model.idle_unload_at - now).total_seconds()))
    hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {seconds}s" if minutes else f"{seconds}s"
