"""`run`: generates an image or a video and saves it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.connection import DataDir, Port, connect
from server.cli.exit_codes import Exit
from server.cli.media_options import FILE, controls, ip_adapters, media, several
from server.cli.media_options import upscale as parse_upscale
from server.cli.output import fail

if TYPE_CHECKING:
    from server.client import AgentName, Job, Output

app = typer.Typer()

FORMATS = {
    "image": {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"},
    "video": {".mp4": "mp4", ".webm": "webm", ".gif": "gif", ".zip": "frames"},
}
STDOUT = Path("-")


@app.command()
def run(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    video: Annotated[bool, typer.Option("--video", help="Generate a video instead of an image.")] = False,
    aspect: Annotated[str | None, typer.Option(help="Aspect ratio: 16:9, 1:1 or 9:16.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model: agentname list")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; the same seed gives the same image.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of denoising steps. Default: the model's own.")] = None,
    n: Annotated[int | None, typer.Option("-n", "--n", help="Number of images, 1 to 8.")] = None,
    duration: Annotated[int | None, typer.Option(help="Length of the video in seconds.")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt: what not to show.")] = None,
    speed: Annotated[
        str | None, typer.Option(help="exact, balanced or fast: the last two predict some steps. Default: exact.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="A noise scheduler that the model lists.")] = None,
    clip_skip: Annotated[int | None, typer.Option(help="How many of CLIP's last layers are skipped.")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="NAME or NAME:WEIGHT of a LoRA.")] = None,
    image: Annotated[str | None, typer.Option(metavar=FILE, help="Picture to change or to animate.")] = None,
    mask: Annotated[str | None, typer.Option(metavar=FILE, help="White in it is repainted in the image.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the image is made anew: 0 (nothing) to 1 (all).")
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(metavar=FILE, help="Picture to refer to. Can be given several times.")
    ] = None,
    last_image: Annotated[str | None, typer.Option(metavar=FILE, help="Last picture of the video.")] = None,
    clip: Annotated[str | None, typer.Option(metavar=FILE, help="Video to change.")] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE=FILE[:STRENGTH]",
            help="Map to follow, such as canny=edges.png:0.8. TYPE is the kind of the map.",
        ),
    ] = None,
    ip_adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE[:STRENGTH]", help="Picture that an IP-Adapter reads like a prompt."),
    ] = None,
    upscale: Annotated[
        str | None, typer.Option(metavar="MODEL[:SCALE]", help="Upscaler for the result, and by how much.")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="How a picture of another shape is brought to size: crop, stretch or pad.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; its suffix selects the format, and - is stdout."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job's status as JSON, for scripts.")] = False,
    wait: Annotated[bool, typer.Option(help="With --no-wait, print the job's id and exit.")] = True,
    show: Annotated[bool, typer.Option(help="Show the image in the terminal, if the terminal can.")] = True,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Generate an image or a video and save it. Ctrl-C cancels the job.

    FILE is a file on this machine, or the id of an uploaded file or of a result.
    """
    kind = "video" if video else "image"
    options = {
        "type": kind, "aspect_ratio": aspect, "model": model, "seed": seed, "steps": steps, "n": n,
        "duration": duration, "negative_prompt": negative, "scheduler": scheduler, "clip_skip": clip_skip,
        "speed": speed, "loras": [_lora(value) for value in lora] if lora else None,
        "output_format": _format(output, kind, wait),
        "image": media("--image", image), "mask": media("--mask", mask), "strength": strength,
        "images": several("--reference", reference), "last_image": media("--last-image", last_image),
        "video": media("--clip", clip), "control": controls(control), "ip_adapter": ip_adapters(ip_adapter),
        "upscale": parse_upscale(upscale), "fit": fit,
    }  # fmt: skip
    if output == STDOUT and (as_json or (n or 1) > 1):
        fail("-o - writes one image to standard output: it excludes --json and -n above 1.", Exit.WRONG_USE)
    text = sys.stdin.read() if prompt == "-" else prompt
    with connect(port, data_dir) as client:
        given = {name: value for name, value in options.items() if value is not None}
        accepted = client.generate(text, **given)  # type: ignore[arg-type]  # the server checks the values
        if not wait:
            typer.echo(json.dumps(accepted.as_json()) if as_json else accepted.job_id)
            return
        job = _wait(client, accepted.job_id)
        files = _save(client, job, text, output) if job.status == "completed" else []
        if as_json:
            typer.echo(json.dumps(job.as_json() | {"files": [str(path) for path in files]}, ensure_ascii=False))
        _end(job)
        if not as_json and output != STDOUT:
            _print(files, job, show)


def _lora(value: str) -> dict[str, str | float]:
    name, colon, weight = value.rpartition(":")
    if not colon:
        return {"name": value}
    try:
        return {"name": name, "weight": float(weight)}
    except ValueError:
        fail(f"--lora {value}: {weight} is not a number. After a name that holds a colon, write :1.", Exit.WRONG_USE)


def _format(output: Path | None, kind: str, wait: bool) -> str | None:
    """Returns the format for the file's suffix. An invalid file ends the command before the job is submitted."""
    if output is None or output == STDOUT:
        return None
    if not wait:
        fail("--no-wait writes no file: leave -o out.", Exit.WRONG_USE)
    if output.suffix.lower() not in FORMATS[kind]:
        fail(f"-o {output}: the file must end in one of {', '.join(FORMATS[kind])}.", Exit.WRONG_USE)
    if not output.parent.is_dir():
        fail(f"-o {output}: there is no folder {output.parent}.", Exit.WRONG_USE)
    return FORMATS[kind][output.suffix.lower()]


def _wait(client: AgentName, job_id: str) -> Job:
    """Returns the job once it has ended. Ctrl-C cancels it; a job that has not started is refunded."""
    try:
        with _progress() as show_progress:
            for job in client.watch(job_id):
                show_progress(job)
            return job
    except KeyboardInterrupt:
        client.cancel(job_id)
        fail(f"Canceled {job_id}.", Exit.INTERRUPTED)


@contextmanager
def _progress() -> Iterator[Callable[[Job], None]]:
    """Shows a progress bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)

        def show(job: Job) -> None:
            progress.update(task, completed=job.progress, description=describe(job))

        yield show


def describe(job: Job) -> str:
    """Returns the text before the progress bar."""
    left = "" if job.eta_seconds is None or job.ended else f", about {max(1, round(job.eta_seconds))} s left"
    if job.queue is not None:
        match job.queue.waiting_for:
            case "gpu_memory":
                return f"waiting for memory{left}"
            case "model_load":
                return f"waiting for {job.model}{left}"
            case _:
                return f"waiting, {job.queue.position} ahead{left}"
    match job.stage:
        case "loading_model":
            return f"loading {job.model}{left}"
        case "denoising":
            return f"step {job.step} of {job.total_steps}{left}"
        case _:
            return f"{job.stage}{left}"


def _save(client: AgentName, job: Job, prompt: str, output: Path | None) -> list[Path]:
    if output == STDOUT:
        sys.stdout.buffer.write(client.download(job.outputs[0]))
        sys.stdout.buffer.flush()
        return []
    try:
        return [
            client.save(result, destination(output, prompt, result, i, job)) for i, result in enumerate(job.outputs, 1)
        ]
    except OSError as error:
        fail(f"Cannot write {error.filename}: {error.strerror}. The result is at {job.outputs[0].url}", Exit.FAILED)


def destination(output: Path | None, prompt: str, result: Output, number: int, job: Job) -> Path:
    """Returns the file for a result: `output`, with a number if there are several results; without `output`, a new file
    in the current folder, named after the prompt and the seed.
    """
    if output is not None:
        return output if len(job.outputs) == 1 else output.with_stem(f"{output.stem}-{number}")
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:40].strip("-") or job.type
    subtype = result.mime_type.split("/")[1]
    suffix = {"image/jpeg": ".jpg", "application/zip": ".zip"}.get(result.mime_type, f".{subtype}")
    names = (f"{words}-{result.seed}{again}{suffix}" for again in ("", *(f"-{i}" for i in range(2, 10_000))))
    return next(path for path in map(Path, names) if not path.exists())


def _end(job: Job) -> None:
    """Prints the job's warnings, and ends the command with an error if the job did not complete."""
    for warning in job.warnings:
        typer.echo(f"Note: {warning}", err=True)
    if job.status == "canceled":
        fail(f"{job.job_id} was canceled.", Exit.INTERRUPTED)
    if job.status == "failed":
        fail(f"{job.job_id} failed: {job.error.message if job.error else 'no reason given'}", Exit.FAILED)


def _print(files: list[Path], job: Job, shown: bool) -> None:
    from rich.console import Console

    from server.cli.terminal_image import show

    for path, result in zip(files, job.outputs, strict=True):
        if shown and job.type == "image":
            show(path.read_bytes(), Console())
        typer.echo(f"{path}")
        typer.echo(f"{result.width}x{result.height}, seed {result.seed}, {job.model}", err=True)
