"""A spec → a lane on a device. The only file that opens a checkpoint with torch; device thread only.

The folder is checked again right before it is opened (it may have changed since the start), and every class it names is
looked up in the library that defines it: safetensors only, nothing downloaded, no code of the checkpoint's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from models.errors import LoadFailed, ModelsError
from models.files import variant
from models.loading.building import chat_quantization, pipeline_builder
from models.loading.shared_weights import SharedWeights
from models.loading.smoke import check_chat_model, check_smoke
from models.preflight import check_path
from models.spec import ModelSpec
from pipelines.device import is_fatal, is_out_of_memory, release_cache
from pipelines.dtype_lock import loading
from pipelines.interface import Lane, Merging

__all__ = ["LoadFailed", "SharedWeights", "load", "quiet_libraries"]

T = TypeVar("T")

CACHE_BYTES = 512 << 20  # KV cache of a chat model where nobody says: 11,000 tokens of SmolLM2 in float32
OFFLOADED = (
    "{} is larger than the device: its weights stay in host memory and visit the device block by block, which is slow."
)


@loading()
def load(
    spec: ModelSpec,
    *,
    device: str,
    cache_bytes: int | None = None,
    max_rows: int = 8,
    merging: Merging = "unproven",
    verdicts: Mapping[str, bool] | None = None,
    offload: bool = False,
    proven: set[str] | None = None,
    shared: SharedWeights | None = None,
) -> Lane:
    """Raises `LoadFailed`, its message fit for a client; an out-of-memory passes through for the engine to judge.

    cache_bytes: of the KV cache (chat). max_rows: requests that one forward may merge (image, video). verdicts: what an
    earlier lane of this checkpoint proved of merging. offload: the weights stay in host memory, and their blocks visit the
    device one after the other: for a checkpoint larger than the device (image, video). proven: fingerprints of checkpoints
    that passed their smoke run; one that is not in it has to, and is put in. None: no smoke run. shared: the device's.
    """
    if spec.path is None:
        raise LoadFailed(f"The model {spec.name} is not downloaded yet.", detail=f"fetch its source: {spec.source}")
    dtype, shared = serving_dtype(spec, device), shared or SharedWeights()
    try:
        check_path(spec.path)
        if spec.type == "chat":
            lane = _chat(spec, spec.path, device, dtype, cache_bytes or CACHE_BYTES, proven, shared)
        else:
            lane = _diffusion(spec, device, dtype, max_rows, merging, verdicts, offload or spec.load.offload, shared)
    except LoadFailed:
        raise
    except ModelsError as error:
        raise LoadFailed(f"The model {spec.name} failed to load: {error.message}.", detail=error.detail) from error
    if spec.type != "chat" and proven is not None and spec.fingerprint not in proven:
        try:
            check_smoke(lane, spec)
        except BaseException:
            lane.close()
            raise
        proven.add(spec.fingerprint)
    return lane


def quiet_libraries() -> None:
    """Import them, and stop them from drawing progress bars and announcing themselves into our log."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)


def serving_dtype(spec: ModelSpec, device: str) -> torch.dtype:
    if spec.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[spec.dtype]
    return torch.float32 if device == "cpu" else torch.bfloat16


def _diffusion(
    spec: ModelSpec,
    device: str,
    dtype: torch.dtype,
    max_rows: int,
    merging: Merging,
    verdicts: Mapping[str, bool] | None,
    offload: bool,
    shared: SharedWeights,
) -> Lane:
    from pipelines.diffusion.lane import DiffusionLane

    build = pipeline_builder(spec, device, dtype, offload, shared)
    pipeline = _with_library(build, spec)
    assert spec.type != "chat"
    return DiffusionLane(
        pipeline,
        kind=spec.type,
        max_rows=max_rows,
        merging=merging,
        device_name=device,
        verdicts=verdicts,
        warnings=(OFFLOADED.format(spec.name),) if offload else (),
    )


def _chat(
    spec: ModelSpec,
    folder: Path,
    device: str,
    dtype: torch.dtype,
    cache_bytes: int,
    proven: set[str] | None,
    shared: SharedWeights,
) -> Lane:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from pipelines.chat.lane import ChatLane
    from pipelines.chat.proof import batches

    def build() -> tuple[Any, Any]:
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        if folder.is_file():
            folder_of, safe["gguf_file"] = folder.parent, folder.name
            how = {"quantization_config": GgufConfig(dequantize=True)}
        else:
            folder_of = folder
            how = {"use_safetensors": True, "variant": variant([folder]), **chat_quantization(spec)}
        tokenizer = AutoTokenizer.from_pretrained(folder_of, **safe)
        whose = spec.shareable["model"][0] if "model" in spec.shareable and not spec.load.quantization else None
        model = None if whose is None else shared.borrow(whose, dtype, folder, device)
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(folder_of, dtype=dtype, **how, **safe)
            model = model.to(device).eval().requires_grad_(False)
        if whose is not None:
            shared.offer(whose, dtype, model)
        return model, tokenizer

    model, tokenizer = _with_library(build, spec)
    if not tokenizer.chat_template:
        raise LoadFailed(f"The model {spec.name} has no chat template.", detail=str(folder))
    if proven is not None and spec.fingerprint not in proven:
        check_chat_model(model, spec, tokenizer.encode("The sky is", add_special_tokens=False) or [0])
        proven.add(spec.fingerprint)
    return ChatLane(
        model,
        tokenizer,
        cache_bytes=cache_bytes,
        max_running=spec.max_running,
        context_tokens=spec.limits.context_tokens,
        merging="on" if batches(model) else "off",
    )


def _with_library(build: Callable[[], T], spec: ModelSpec) -> T:
    """Run the library's own loading; whatever it raises becomes `LoadFailed`, except running out of memory."""
    try:
        return build()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, MemoryError) as error:
        if is_fatal(error):
            raise
        if not is_out_of_memory(error):
            raise _does_not_fit(spec, error) from error
        ran_out = error.with_traceback(None)
    release_cache()  # outside the except block: the frames that held what was loaded so far are gone
    raise ran_out


def _does_not_fit(spec: ModelSpec, error: Exception) -> LoadFailed:
    return LoadFailed(
        f"The model {spec.name} failed to load: its files do not fit its pipeline.",
        detail=f"{type(error).__name__}: {error}",
    )
