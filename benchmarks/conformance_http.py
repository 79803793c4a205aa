"""Compares results over HTTP: saves a checkpoint, adds it to the running server, runs jobs, compares, and removes it.

The reference is the library in this process, loaded from the same folder and called with the parameters that the server
returned. The server sends images as PNG and clips as the PNGs of their frames, so that levels of 0 … 255 are compared.
"""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from benchmarks.conformance_chat import N_TOKENS, QUESTIONS, generated
from benchmarks.conformance_rows import Row
from benchmarks.families import FAMILIES, Family
from benchmarks.families.decoders import decoder
from models.checkpoint.pipeline_source import pipeline_source
from models.checkpoint.read_checkpoint import read_checkpoint
from pipelines.diffusion.arguments import FRAMES_ARGUMENTS
from tests.support.http.live_server import LiveServer
from tests.support.lanes.tiny_chat import tiny_tokenizer

SAME_LEVELS = 1  # of 255; a value near the middle of two levels may round either way
PROMPTS = ("a red circle", "ocean waves at sunset, wide", "a city", "a green star on the left")
JOB_S = 300.0  # far longer than any job of networks this small takes


class Failed(Exception):
    """The server refused or failed a request. The message says why."""


class HttpComparison:
    def __init__(self, live: LiveServer, scratch: Path) -> None:
        self._live = live
        self._scratch = scratch

    def compare(self, name: str) -> Row:
        """Compares a class or architecture. A failure is recorded in its row and does not stop the run."""
        family = self._family(name)
        folder = self._scratch / slug(name)
        kind = "chat" if family is None else family.kind
        try:
            if family is None:
                return self._chat(name, folder)
            return self._pipeline(family, folder)
        except Exception as error:  # noqa: BLE001  # the row records it
            reason = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            return Row(name, kind, False, False, " ".join(reason.split())[:200])
        finally:
            self._live.request("DELETE", f"/api/models/{slug(name)}")
            shutil.rmtree(folder, ignore_errors=True)

    def _family(self, name: str) -> Family | None:
        return FAMILIES.get(name)

    def _pipeline(self, family: Family, folder: Path) -> Row:
        """Runs two rounds of jobs. The batching proof takes place in the first, on results that ran alone."""
        family.save(folder)
        self._add(folder, entry_of(family, family.name))
        bodies = [_body(family, i) for i in range(len(PROMPTS[: family.jobs]))]
        self._round(bodies)
        ended = self._round(bodies)
        shared = self._merging(slug(family.name))
        pipeline = _opened(family, folder)
        guides = read_checkpoint(folder, name=folder.name, source="", float_bytes=4).guidance_argument
        levels = 0
        for body, status in zip(bodies, ended, strict=True):
            served = pixels_of(self._live.fetch(status["outputs"][0]["url"]).body, family.kind)
            expected = _direct(pipeline, family, body, status["params"], guides)
            if served.shape != expected.shape:
                raise Failed(f"{served.shape} where the library gives {expected.shape}")
            levels = max(levels, int(np.abs(served.astype(int) - expected.astype(int)).max()))
        return Row(family.name, family.kind, levels <= SAME_LEVELS, shared, "", levels)

    def _chat(self, name: str, folder: Path) -> Row:
        decoder(name).save_pretrained(folder)
        tokenizer = tiny_tokenizer()
        tokenizer.save_pretrained(folder)
        self._add(folder, {})
        alone = [self._reply(folder.name, QUESTIONS[0])]
        with ThreadPoolExecutor(len(QUESTIONS)) as clients:
            batched = list(clients.map(lambda text: self._reply(folder.name, text), QUESTIONS))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        expected = [generated(model, tokenizer, text) for text in QUESTIONS]
        return Row(name, "chat", alone == expected[:1] and batched == expected, self._merging(folder.name))

    def _add(self, folder: Path, entry: Mapping[str, Any]) -> None:
        reply = self._live.post("/api/models", {"name": folder.name, "source": str(folder), **entry})
        if reply.status != 200:
            raise Failed(reply.json["error"])

    def _merging(self, name: str) -> bool:
        """Returns whether the model batches. Only known while the model is loaded."""
        return any(m["name"] == name and m["merging"] == "on" for m in self._live.get("/api/models").json["models"])

    def _round(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        replies = [self._live.post("/api/generate", body) for body in bodies]
        refused = next((reply.json["error"] for reply in replies if reply.status != 200), None)
        if refused is not None:
            raise Failed(refused)
        ended = [_retried(lambda id=reply.json["jobId"]: self._live.wait(id, JOB_S)) for reply in replies]
        failed = next((end for end in ended if end["status"] != "completed"), None)
        if failed is not None:
            raise Failed((failed["error"] or {}).get("message", failed["status"]))
        return ended

    def _reply(self, model: str, text: str) -> str:
        body = {"model": model, "message": text, "max_tokens": N_TOKENS, "temperature": 0}
        reply = self._live.post("/api/chat", body)
        if reply.status != 200:
            raise Failed(reply.json["error"])
        return str(reply.json["reply"])


def _retried(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Tries again after a timeout: a busy machine may answer too late, while the job goes on."""
    for _ in range(2):
        try:
            return ask()
        except OSError:
            time.sleep(1.0)
    return ask()


def entry_of(family: Family, own: str) -> dict[str, Any]:
    """Returns the model's entry for models.toml: the defaults in its configs are too large for its few weights.

    own: the class of its checkpoint.
    """
    source = pipeline_source(own)
    assert source is not None
    defaults: dict[str, Any] = {"width": family.size, "height": family.size}
    if family.num_frames is not None:
        defaults["num_frames"] = family.num_frames
    if not family.takes_guidance:
        defaults["steps"] = family.steps[0]
    if "negative_prompt" in source.arguments:
        defaults["negative_prompt"] = "blurred"
    return {"defaults": defaults, **({"call": dict(family.call)} if family.call else {})}


def _body(family: Family, i: int) -> dict[str, Any]:
    """Returns the i-th job. Prompt, seed and steps differ between jobs, and the last has another size."""
    source = pipeline_source(family.name)
    assert source is not None
    body: dict[str, Any] = {
        "type": family.kind,
        "model": slug(family.name),
        "prompt": PROMPTS[i],
        "seed": 1000 + i,
        "width": family.other_size if i == len(PROMPTS) - 1 else family.size,
        "height": family.size,
        "output_format": "png" if family.kind == "image" else "frames",
    }
    if "num_inference_steps" in source.arguments:
        body["steps"] = family.steps[i % len(family.steps)]
    if family.takes_guidance and "guidance_scale" in source.arguments:
        body["guidance_scale"] = (3.0, 5.5, 4.0, 7.0)[i]
    if "negative_prompt" in source.arguments:
        body["negative_prompt"] = "blurred"
    if family.num_frames is not None:
        body["num_frames"] = family.num_frames
    return body


def _direct(
    pipeline: Any, family: Family, body: Mapping[str, Any], params: Mapping[str, Any], guides: str
) -> NDArray[np.uint8]:
    """guides: the argument that a request's guidance_scale sets, also where the call of the family sets it."""
    source = pipeline_source(family.name)
    assert source is not None
    frames_argument = next((name for name in FRAMES_ARGUMENTS if name in source.arguments), "num_frames")
    arguments = {
        "prompt": body["prompt"],
        "negative_prompt": body.get("negative_prompt"),
        "width": params["width"],
        "height": params["height"],
        "num_inference_steps": params["steps"] if "num_inference_steps" in source.arguments else None,
        "frame_rate": params.get("fps") if "frame_rate" in source.arguments else None,
        frames_argument: params.get("numFrames"),
        **family.call,
    }
    if "guidance_scale" in body:
        arguments[guides] = body["guidance_scale"]
    given = {name: value for name, value in arguments.items() if value is not None}
    torch.manual_seed(params["seed"])  # some pipelines also use torch's global generator
    generator = torch.Generator("cpu").manual_seed(params["seed"])
    media = pipeline(**given, generator=generator, output_type="np")[0][0]
    frames = np.asarray(media if family.kind == "video" else media[None], dtype=np.float32)
    return np.rint(np.clip(frames, 0.0, 1.0) * 255.0).astype(np.uint8)


def _opened(family: Family, folder: Path) -> Any:
    import diffusers

    if not family.library_opens:
        return family.build()
    pipeline = getattr(diffusers, family.name).from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if family.in_tiles:
        pipeline.vae.enable_tiling()
    return pipeline


def pixels_of(file: bytes, kind: str) -> NDArray[np.uint8]:
    """Decodes a PNG or a zip of PNGs to (F, H, W, 3), or (1, H, W, 4) for an image with an alpha channel."""
    if kind == "image":
        return np.asarray(Image.open(io.BytesIO(file)))[None]
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        pictures = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return np.stack([np.asarray(Image.open(archive.open(name)).convert("RGB")) for name in pictures])


def slug(name: str) -> str:
    return name.removesuffix("Pipeline").lower()
