"""`run`: a picture or a clip from the command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.common import DataDir, Port, connect, fail
from server.cli.exits import Exit

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
    prompt: Annotated[str, typer.Argument(help="What to show; - reads it from standard input.")],
    video: Annotated[bool, typer.Option("--video", help="A clip instead of a picture.")] = False,
    aspect: Annotated[str | None, typer.Option(help="16:9, 1:1 or 9:16.")] = None,
    model: Annotated[str | None, typer.Option(help="A name from: agentname list")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same picture.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default the model's own.")] = None,
    n: Annotated[int | None, typer.Option("-n", "--n", help="How many pictures, 1 to 8.")] = None,
    duration: Annotated[int | None, typer.Option(help="Seconds of a clip.")] = None,
    negative: Annotated[str | None, typer.Option(help="What it should not show.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="A noise scheduler that the model lists.")] = None,
    clip_skip: Annotated[int | None, typer.Option(help="Last layers of CLIP that are left out.")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="NAME or NAME:WEIGHT, several times for several.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; its ending says the format; - is stdout.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job's status as JSON, for scripts.")] = False,
    wait: Annotated[bool, typer.Option(help="--no-wait: print the job's id and leave.")] = True,
    show: Annotated[bool, typer.Option(help="Show the picture in a terminal that can.")] = True,
    port: Port = None,
    data_dir: DataDir = None,
) -> None:
    """Make a picture, or a clip, and save it. Ctrl-C cancels the job."""
    kind = "video" if video else "image"
    options = {
        "type": kind, "aspect_ratio": aspect, "model": model, "seed": seed, "steps": steps, "n": n,
        "duration": duration, "negative_prompt": negative, "scheduler": scheduler, "clip_skip": clip_skip,
        "loras": [_lora(said) for said in lora] if lora else None, "output_format": _format(output, kind, wait),
    }  # fmt: skip
    if output == STDOUT and (as_json or (n or 1) > 1):
        fail("-o - takes one picture and no --json: standard output carries one thing.", Exit.WRONG_USE)
    said = sys.stdin.read() if prompt == "-" else prompt
    with connect(port, data_dir) as client:
        accepted = client.generate(said, **{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]  # the server checks the words
        if not wait:
            typer.echo(json.dumps(accepted.as_json()) if as_json else accepted.job_id)
            return
        job = _wait(client, accepted.job_id)
        files = _save(client, job, said, output) if job.status == "completed" else []
        if as_json:
            typer.echo(json.dumps(job.as_json() | {"files": [str(path) for path in files]}, ensure_ascii=False))
        _end(job)
        if not as_json and output != STDOUT:
            _print(files, job, show)


def _lora(said: str) -> dict[str, str | float]:
    name, colon, weight = said.rpartition(":")
    if not colon:
        return {"name": said}
    try:
        return {"name": name, "weight": float(weight)}
    except ValueError:
        fail(f"--lora {said}: {weight} is not a number.", Exit.WRONG_USE)


def _format(output: Path | None, kind: str, wait: bool) -> str | None:
    """By the ending of the file. What cannot be written is said before a model works for it."""
    if output is None or output == STDOUT:
        return None
    if not wait:
        fail("--no-wait writes no file: leave -o away.", Exit.WRONG_USE)
    if output.suffix.lower() not in FORMATS[kind]:
        fail(f"-o {output}: the file must end in one of {', '.join(FORMATS[kind])}.", Exit.WRONG_USE)
    if not output.parent.is_dir():
        fail(f"-o {output}: there is no folder {output.parent}.", Exit.WRONG_USE)
    return FORMATS[kind][output.suffix.lower()]


def _wait(client: AgentName, job_id: str) -> Job:
    """The job once it has ended. Ctrl-C cancels it; what it had not begun costs nothing."""
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
    """On standard error, and only where somebody looks."""
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
        return [client.save(made, destination(output, prompt, made, i, job)) for i, made in enumerate(job.outputs, 1)]
    except OSError as error:
        fail(f"Cannot write {error.filename}: {error.strerror}. The result is at {job.outputs[0].url}", Exit.FAILED)


def destination(output: Path | None, prompt: str, made: Output, number: int, job: Job) -> Path:
    """`output`, numbered when there are several; else a new name in this folder, from the prompt and the seed."""
    if output is not None:
        return output if len(job.outputs) == 1 else output.with_stem(f"{output.stem}-{number}")
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:40].strip("-") or job.type
    suffix = {"image/jpeg": ".jpg", "application/zip": ".zip"}.get(made.mime_type) or f".{made.mime_type.split('/')[1]}"
    names = (f"{words}-{made.seed}{again}{suffix}" for again in ("", *(f"-{i}" for i in range(2, 10_000))))
    return next(path for path in map(Path, names) if not path.exists())


def _end(job: Job) -> None:
    """Does not return when it did not complete."""
    for warning in job.warnings:
        typer.echo(f"Note: {warning}", err=True)
    if job.status == "canceled":
        fail(f"{job.job_id} was canceled.", Exit.INTERRUPTED)
    if job.status == "failed":
        fail(f"{job.job_id} failed: {job.error.message if job.error else 'no reason given'}", Exit.FAILED)


def _print(files: list[Path], job: Job, shown: bool) -> None:
    from rich.console import Console

    from server.cli.pictures import show

    for path, made in zip(files, job.outputs, strict=True):
        if shown and job.type == "image":
            show(path.read_bytes(), Console())
        typer.echo(f"{path}")
        typer.echo(f"{made.width}x{made.height}, seed {made.seed}, {job.model}", err=True)
