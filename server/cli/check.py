"""`check`: what a folder, file or hub id is and whether it can be served, without a server and without loading it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from server.cli.connection import DataDir, Port, settings
from server.cli.output import print_table
from server.units import size

if TYPE_CHECKING:
    from models.check import CheckReport, DeviceMemory
    from server.process.settings import Settings

app = typer.Typer()


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="A folder, a .safetensors or .gguf file, or owner/name[@revision].")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, for scripts.")] = False,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Tell what a model is, what will be read, what is missing or odd, and whether it fits. Loads nothing.

    The exit code is 0 for a model that can be served, 1 for any other.
    """
    from pathlib import Path

    from models.check import check_source

    chosen = settings(port=port, data_dir=data_dir)
    device, dtype = _device(chosen)
    local = Path(source).expanduser()
    report = check_source(
        str(local.absolute()) if local.exists() else source,
        relative_to=chosen.data_dir,
        cache_dir=chosen.cache_dir,
        auto_dtype=dtype,
        device=device,
    )
    if as_json:
        typer.echo(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        _print(report)
    raise typer.Exit(0 if report.is_servable else 1)


def _device(chosen: Settings) -> tuple[DeviceMemory | None, Literal["float32", "bfloat16"]]:
    """Returns the largest device of the running server, else of this machine, and the precision it serves in."""
    import os

    import pynvml

    from models.check import DeviceMemory
    from server.client import AgentName, AgentNameError, url_of
    from server.process.hardware import NoSuchDevice, auto_dtype, find_machines
    from server.process.host_memory import HostMemory
    from server.process.visible_gpus import visible_gpus

    try:
        gpus, host_bytes = visible_gpus(pynvml, os.environ), HostMemory().total_bytes
        machines = find_machines(chosen.device, chosen.memory_budget, gpus=gpus, host_bytes=host_bytes)
    except NoSuchDevice:
        return None, "float32"
    largest = max(machines, key=lambda machine: machine.memory_bytes)
    memory = DeviceMemory(largest.name, largest.memory_bytes, largest.memory_bytes)
    try:
        with AgentName(url_of(chosen.host, chosen.port), data_dir=chosen.data_dir, retries=0) as client:
            devices = client.gpu()
    except AgentNameError:
        devices = []
    if devices:
        served = max(devices, key=lambda device: device.total)
        memory = DeviceMemory(served.name, served.total, served.free)
    return memory, auto_dtype(machines)


def _print(report: CheckReport) -> None:
    what = ", ".join(filter(None, (report.type, report.pipeline))) or "no model that is known"
    typer.echo(f"{report.name}: {what}")
    if report.parts:
        rows = [
            [
                part.name,
                part.cls,
                ", ".join(f"{name} ({size(n_bytes)})" for name, n_bytes in part.files.items()),
                ", ".join(part.dtypes),
                size(part.bytes) if part.bytes else "",
            ]
            for part in report.parts
        ]
        print_table(["part", "class", "files", "holds", report.dtype], rows)
    if report.base is not None:
        typer.echo(f"Configs and what the file lacks come from {report.base}.")
    for note in report.notes:
        typer.echo(f"Note: {note}")
    typer.echo(_verdict(report))


def _verdict(report: CheckReport) -> str:
    if report.reason:
        return f"It cannot be served, it is {report.state}: {report.reason.rstrip('.')}."
    if report.state == "not downloaded":
        return f"It is not downloaded: {size(report.download_bytes)} to fetch. agentname pull {report.source}"
    bytes_told = f"Its weights take {size(report.weight_bytes)} on the device, and a step takes some more."
    if report.device is None:
        return f"It can be served. {bytes_told}"
    device = f"{report.device.name} has {size(report.device.total_bytes)}, {size(report.device.free_bytes)} free"
    match report.fits:
        case "fits":
            return f"It can be served. {bytes_told} {device}: it fits."
        case "after others leave":
            return f"It can be served. {bytes_told} {device}: it fits when other models have left."
        case "offloaded":
            return f"It can be served slowly. {bytes_told} {device}: its blocks visit the device one after the other."
        case _:
            return f"It cannot be served here. {bytes_told} {device}: it is too large."
