"""Opens a damaged checkpoint and makes one picture, clip or reply with it: by the server's code, and by the library."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from benchmarks.conformance_chat import generated
from benchmarks.damage_copy import CHECKPOINT
from benchmarks.damage_families import Sound
from models.errors import BadConfig, ModelsError
from models.loading.load import load
from models.loading.prompt_reader import PromptReader
from models.spec import ModelSpec
from pipelines.chat_interface import ChatRequest, Message, PromptOptions, PromptRefused
from pipelines.device import is_out_of_memory
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Failed, Lane, Rendered, Replied
from tests.support.catalogues import open_catalogue
from tests.support.lanes.lane_play import direct, request
from tests.support.prompts import asked

NAME = "damaged"
QUESTION = "a red circle"
ALIKE = 1e-5  # spread of logits that differ by rounding alone, relative to their size
N_TOKENS = 24  # those of `generated`
LIBRARY_CPU_S = 20.0  # to open a checkpoint; the slowest that it opens takes a few seconds
MOST_STEPS = 2000  # of a lane for one request; a dozen are usual


@dataclass(frozen=True, slots=True)
class Refused:
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that a server must not meet: an error that is none of ours."""

    what: str


@dataclass(frozen=True, slots=True)
class Opened:
    modules: dict[str, torch.nn.Module]
    result: NDArray[np.float32] | str | Refused  # Refused: the job failed, and why
    notes: tuple[str, ...] = ()


Outcome = Refused | Broken | Opened


# The server's code


def by_server(sound: Sound, data_dir: Path) -> Outcome:
    """Reads the catalogue, loads the model with its trial, and runs one request."""
    try:
        catalogue = open_catalogue(data_dir, _models_toml(sound.entry(f"./{CHECKPOINT}")))
        if NAME not in catalogue.names():
            return Refused(" / ".join(refused.reason for refused in catalogue.refused))
        spec = catalogue.get(NAME)
        with _modules_that_ran() as ran:
            lane = load(spec, device="cpu", merging="off", smoke_tested=set())
        try:
            modules = _components(lane.pipeline) if isinstance(lane, DiffusionLane) else dict(ran)
            return Opened(modules, _run(lane, _request(sound, spec)), (*spec.notes, *lane.warnings))
        except PromptRefused as error:
            return Opened(modules, Refused(error.message, error.detail))
        finally:
            lane.close()
    except BadConfig as error:
        return Broken(f"ends the start of the server: {error.message}")
    except ModelsError as error:
        return Refused(error.message, error.detail)
    except Exception as error:  # noqa: BLE001  # that it gets here is the finding
        if is_out_of_memory(error):
            return Refused("out of memory", str(error))
        return Broken(f"{type(error).__name__}: {error}")


def _models_toml(entry: dict[str, Any]) -> str:
    lines = [f"[models.{NAME}]", f"source = {json.dumps(entry['source'])}"]
    for section in ("load", "call"):
        lines += [f"[models.{NAME}.{section}]", *(f"{k} = {json.dumps(v)}" for k, v in entry.get(section, {}).items())]
    return "\n".join(lines)


@contextmanager
def _modules_that_ran() -> Iterator[dict[str, torch.nn.Module]]:
    """Collects the language model whose forward the trial of a load runs: its lane does not show it."""
    ran: dict[str, torch.nn.Module] = {}

    def note(module: torch.nn.Module, _arguments: Any) -> None:
        if isinstance(module, transformers.GenerationMixin):
            ran["model"] = module

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield ran
    finally:
        hook.remove()


def _components(pipeline: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def _request(sound: Sound, spec: ModelSpec) -> DiffusionRequest | ChatRequest:
    """Raises `PromptRefused`."""
    if sound.family is None:
        prompt = PromptReader().read(spec, [Message("user", QUESTION)], PromptOptions())
        return ChatRequest(id="1", prompt=prompt, max_tokens=N_TOKENS)
    return request(sound.family, "1", steps=2, deterministic=True)


def _run(lane: Lane, wanted: DiffusionRequest | ChatRequest) -> NDArray[np.float32] | str | Refused:
    lane.admit(wanted)
    for _ in range(MOST_STEPS):
        for update in lane.step():
            match update:
                case Rendered(frames=frames):
                    return frames
                case Replied(text=text):
                    return text
                case Failed(message=message, detail=detail):
                    return Refused(message, detail)
    lane.cancel(wanted.id)
    lane.step(0)
    return Refused("the request does not end")


# The library


class NoEnd(Exception):
    """The library was still busy after its time."""


@contextmanager
def limited(cpu_s: float) -> Iterator[None]:
    """Raises `NoEnd` in this context after so much CPU time: a config may keep the library busy for ever."""

    def interrupt(*_: object) -> None:
        raise NoEnd(f"no end within {cpu_s:.0f} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def by_library(sound: Sound, data_dir: Path) -> Outcome:
    """Opens it with the library alone, as its documentation says, and calls the pipeline or `generate`."""
    try:
        with limited(LIBRARY_CPU_S):
            opened = _open(sound, data_dir / CHECKPOINT)
    except Exception as error:  # noqa: BLE001  # the library raises whatever it meets
        return Refused(f"{type(error).__name__}: {error}")
    modules = {"model": opened[0]} if isinstance(opened, tuple) else _components(opened)
    try:
        if isinstance(opened, tuple):
            return Opened(modules, _generated(*opened))
        picture = direct(opened, request(sound.family, "1", steps=2, deterministic=True))
        return Opened(modules, picture if bool(np.isfinite(picture).all()) else Refused("the pixels are no numbers"))
    except Exception as error:  # noqa: BLE001  # as above
        return Opened(modules, Refused(f"{type(error).__name__}: {error}"))


@torch.inference_mode()
def _generated(model: Any, tokenizer: Any) -> str | Refused:
    """`generate` picks a token even where the numbers are broken: then there is nothing to compare."""
    logits = model(torch.tensor([asked(tokenizer, QUESTION).tokens])).logits
    largest = logits.abs().max()
    if not bool(torch.isfinite(logits).all()) or float((logits / largest).std(dim=-1).max()) <= ALIKE:
        return Refused("the logits are no numbers, or all alike")
    return generated(model, tokenizer, QUESTION)


def _open(sound: Sound, folder: Path) -> Any:
    source = folder / sound.source
    if sound.family is None:
        where: dict[str, Any] = {"local_files_only": True}
        if source.is_file():
            where["gguf_file"] = source.name
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where)
        return model.eval(), tokenizer
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    if sound.base is not None:
        options["config"] = str(folder / sound.base)
        pipeline = getattr(diffusers, sound.family.name).from_single_file(str(source), **options)
    else:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
