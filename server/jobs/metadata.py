"""Builds the metadata that is written into a file: how its image or clip was made. Worker threads only.

The text follows AUTOMATIC1111, so that its users' programs read it: the prompt with its LoRAs, the negative prompt, and
a last line of parameters whose values are JSON where they hold a comma, a colon or a newline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.checkpoint.noise_schedulers import scheduler_config
from models.errors import ModelsError
from server.jobs.encoding import FileMetadata
from server.jobs.file_hashes import FileHashes
from server.jobs.sampler_names import sampler_of
from server.store.jobs import JobRow
from server.version import program_version

NEGATIVE = "Negative prompt:"  # a line that begins so ends the prompt
NOT_IN_TAGS = frozenset("<>:")  # AUTOMATIC1111 cannot read a LoRA's name with one of these in <lora:NAME:WEIGHT>
INVISIBLE = "\u200b"  # no white space, which readers would strip


def file_metadata(row: JobRow, index: int, scheduler: str, hashes: FileHashes) -> FileMetadata:
    """The metadata of output `index`. scheduler: class name of the noise scheduler that ran."""
    request, seed = row.request, row.request["seed"] + index
    checkpoint = Path(request["checkpoint"]) if request.get("checkpoint") else None
    lora_hashes = {
        lora["name"]: found
        for lora in request.get("loras", ())
        if (found := hashes.lora(Path(lora["path"]), lora.get("stamp")))
    }
    sampler, schedule = sampler_of(scheduler, _settings(checkpoint))
    parameters = {
        "Steps": request["steps"],
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": request["guidance_scale"],
        "Seed": seed,
        "Size": f"{request['width']}x{request['height']}",
        "Model hash": hashes.model(checkpoint) if checkpoint else None,
        "Model": row.model,
        # A1111 counts the last layer as 1.
        "Clip skip": request["clip_skip"] + 1 if request.get("clip_skip") else None,
        "Lora hashes": ", ".join(f"{_in_list(name)}: {found}" for name, found in lora_hashes.items()) or None,
        "Denoising strength": request.get("strength"),
        "Pipeline": request.get("pipeline"),
        "Input hashes": _input_hashes(request.get("inputs") or {}),
        "Version": f"AgentName {program_version()}",
    }
    lines = [_prompt(request)]
    if request["negative_prompt"]:
        lines.append(f"{NEGATIVE} {_one_prompt(request['negative_prompt'])}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in parameters.items() if value is not None))
    everything = {
        **row.params,
        "loras": [{**lora, "hash": lora_hashes.get(lora["name"])} for lora in row.params.get("loras", ())],
        "prompt": request["prompt"],
        "model": row.model,
        "seed": seed,
        "scheduler": scheduler,
        "jobId": row.id,
    }
    return FileMetadata("\n".join(lines), json.dumps(everything))


def _input_hashes(inputs: Mapping[str, Any]) -> str | None:
    """The beginnings of the SHA-256 of the pictures and clips; the JSON beside the text has them whole."""
    found = [f"{name}: {each['sha256'][:12]}" for name, each in inputs.items() if isinstance(each, dict)]
    found += [f"images[{i}]: {each['sha256'][:12]}" for i, each in enumerate(inputs.get("images", ()))]
    found += [f"control[{i}]: {each['image']['sha256'][:12]}" for i, each in enumerate(inputs.get("controls", ()))]
    return ", ".join(found) or None


def _prompt(request: Mapping[str, Any]) -> str:
    """The prompt with a tag for each LoRA."""
    text = _one_prompt(request["prompt"])
    if text.strip().startswith(NEGATIVE):
        text = INVISIBLE + text
    tags = [
        f"<lora:{lora['name']}:{lora['weight']:g}>"
        for lora in request.get("loras", ())
        if not NOT_IN_TAGS.intersection(lora["name"]) and f"<lora:{lora['name']}:" not in text
    ]
    return " ".join((text.rstrip(" "), *tags)) if tags else text


def _one_prompt(text: str) -> str:
    """A line of it that readers would take for the beginning of the negative prompt joins the line before."""
    first, *others = text.split("\n")
    return first + "".join(f" {line.strip()}" if line.strip().startswith(NEGATIVE) else f"\n{line}" for line in others)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(each in text for each in ',:\n"') else text


def _in_list(name: str) -> str:
    return name.replace(":", "").replace(",", "")


def _settings(checkpoint: Path | None) -> Mapping[str, object]:
    """Of the checkpoint's noise scheduler, whose configuration another one chosen by the request takes over."""
    try:
        return scheduler_config(checkpoint) if checkpoint and checkpoint.is_dir() else {}
    except (OSError, ModelsError):
        return {}
