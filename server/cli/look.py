"""`ps` and `list`: what a running server holds and does."""

from __future__ import annotations

import typer

from server.cli.common import DataDir, Port, ask, print_table

app = typer.Typer()


@app.command()
def ps(port: Port = None, data_dir: DataDir = None) -> None:
    """What is in memory, and what runs and waits."""
    from server.client import size

    devices = ask("/api/gpu", port, data_dir)["devices"]
    held = [[d["name"], h["name"], h["kind"], size(h["bytes"])] for d in devices for h in d["holders"]]
    if held:
        print_table(["device", "holder", "kind", "size"], held)
    else:
        typer.echo("No model is in memory.")
    for device in devices:
        typer.echo(
            f"{device['name']}: {size(device['used'])} of {size(device['total'])} used, {size(device['free'])} free"
        )
    live = [
        [job["jobId"], job["type"], job["model"], job["status"], f"{job['progress']:.0%}"]
        for status in ("processing", "queued")
        for job in ask(f"/api/jobs?status={status}", port, data_dir)["jobs"]
    ]
    if live:
        print_table(["job", "type", "model", "status", "progress"], live)


@app.command("list")
def list_models(port: Port = None, data_dir: DataDir = None) -> None:
    """The models there are."""
    from server.client import size

    models = ask("/api/models", port, data_dir)["models"]
    print_table(
        ["model", "type", "state", "size", "dtype"],
        [[m["name"], m["type"], m["state"], size(m["bytes"]), m.get("dtype") or ""] for m in models],
    )
