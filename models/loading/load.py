"""Loads a model: turns its spec into a lane on a device. Device thread only.

The files are checked again right before they are opened, because they may have changed since the catalogue read them.
Only safetensors and GGUF are opened, nothing is downloaded, and no code of the checkpoint runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from models.errors import LoadFailed, ModelsError
from models.files.safety import check_path
from models.loading.adapters import open_adapter
from models.loading.building import pipeline_builder
from models.loading.chat import open_chat
from models.loading.compilation import compiles_steps, denoisers_to_compile
from models.loading.confined import confine
from models.loading.measured import Measured
from models.loading.read_ahead import read_adapter_ahead
from models.loading.shared_weights import SharedWeights
from models.loading.smoke import smoke_test, smoke_test_chat_model, smoke_test_pictures
from models.loading.upscaler import upscaler_builder
from models.spec import ModelSpec
from pipelines.chat_interface import Message, PromptRefused
from pipelines.device import is_fatal, is_out_of_memory, release_cache
from pipelines.diffusion_interface import UPSCALER
from pipelines.dtype_lock import loading
from pipelines.interface import Lane, Merging

T = TypeVar("T")

CACHE_BYTES = 512 << 20  # default KV cache of a chat model: 11,000 tokens of SmolLM2 in float32
OFFLOADED = (
    "{} is larger than the device: its weights stay in host memory and are copied to the device block by block, "
    "which is slow."
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
    smoke_tested: set[str] | None = None,
    shared: SharedWeights | None = None,
    measured: Measured | None = None,
    confines: bool = False,
) -> Lane:
    """Builds the lane of a model.

    Raises `LoadFailed` with a message that a client may read. An out-of-memory error passes through to the engine.

    cache_bytes: size of the KV cache (chat).
    max_rows: requests that one forward may merge (image, video).
    verdicts: results of the merging proof from an earlier lane of this checkpoint.
    offload: keeps the weights in host memory and copies them to the device block by block, for a checkpoint that is
        larger than the device (image, video).
    smoke_tested: fingerprints of checkpoints that passed their smoke test. A checkpoint that is not in it is tested and
        added. None: no smoke test.
    shared: the weights that other models have on this device.
    confines: has a child run the chat template, which a stranger wrote, where the load needs to know what it makes.
    measured: what loads have chosen by measurement, to be read and added to.
    """
    if spec.path is None:
        raise LoadFailed(f"The model {spec.name} is not downloaded yet.", detail=f"source to fetch: {spec.source}")
    dtype, shared = serving_dtype(spec, device), shared or SharedWeights()
    try:
        check_path(spec.path)
        if spec.type == "chat":
            lane = _chat(spec, spec.path, device, dtype, cache_bytes or CACHE_BYTES, smoke_tested, shared, confines)
        elif spec.type == "embedding":
            lane = _embedding(spec, spec.path, device, dtype, smoke_tested)
        else:
            offload = offload or spec.load.offload
            lane = _diffusion(spec, device, dtype, max_rows, merging, verdicts, offload, shared, measured)
    except LoadFailed:
        raise
    except ModelsError as error:
        raise LoadFailed(f"The model {spec.name} failed to load: {error.message}.", detail=error.detail) from error
    if spec.is_diffusion and smoke_tested is not None and spec.fingerprint not in smoke_tested:
        try:
            smoke_test(lane, spec)
        except BaseException:
            lane.close()
            raise
        smoke_tested.add(spec.fingerprint)
    return lane


def quiet_libraries() -> None:
    """Imports diffusers and transformers, and turns off their progress bars and log lines.

    Names what every model needs of transformers, because that library imports its parts when they are first named.
    """
    import diffusers
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel  # noqa: F401

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
    measured: Measured | None,
) -> Lane:
    from pipelines.cuda_graphs import usual_pool
    from pipelines.diffusion.compile_worker import Worker
    from pipelines.diffusion.compiled_blocks import CompiledBlocks
    from pipelines.diffusion.graphs.forward_graphs import ForwardGraphs
    from pipelines.diffusion.lane import DiffusionLane

    assert spec.path is not None, "checked by `load`"
    if spec.pipeline == UPSCALER:
        build = upscaler_builder(spec, spec.path, device, dtype)
    else:
        build = pipeline_builder(spec, device, dtype, offload, shared, measured)
    pipeline, notes = _with_library(build, spec)
    assert spec.type == "image" or spec.type == "video"
    denoisers, uncompiled = denoisers_to_compile(pipeline, spec, device, offload)
    lane = DiffusionLane(
        pipeline,
        kind=spec.type,
        max_rows=max_rows,
        merging=merging,
        device_name=device,
        verdicts=verdicts,
        warnings=(OFFLOADED.format(spec.name),) if offload else (),
        notes=[*notes, *uncompiled],
        read_ahead=read_adapter_ahead,
        open_adapter=partial(
            open_adapter, pipeline=pipeline, configs=spec.base_path or spec.path, device=device, dtype=dtype
        ),
    )
    if denoisers:
        lane.compile_blocks(CompiledBlocks(denoisers, prepare=partial(Worker, device_name=device)))
    if device.startswith("cuda") and spec.load.graphs and not offload:
        lane.record_forwards(ForwardGraphs(partial(usual_pool, device), device))
    return lane


def _chat(
    spec: ModelSpec,
    path: Path,
    device: str,
    dtype: torch.dtype,
    cache_bytes: int,
    smoke_tested: set[str] | None,
    shared: SharedWeights,
    confines: bool,
) -> Lane:
    from pipelines.chat.decode.options import DecodeOptions
    from pipelines.chat.decode.step_compiler import compile_beside
    from pipelines.chat.lane import ChatLane
    from pipelines.chat.prompts.read_prompt import read_prompt
    from pipelines.chat.proof import prove

    model, tokenizer, notes = _with_library(lambda: open_chat(spec, path, device, dtype, shared), spec)
    child = confine(tokenizer, spec.name) if confines else None
    if not tokenizer.chat_template:
        raise LoadFailed(f"The model {spec.name} has no chat template.", detail=str(path))
    try:
        read_prompt(tokenizer, [Message("user", "Hello")])
    except PromptRefused as error:
        raise LoadFailed(
            f"The model {spec.name} failed to load: its chat template does not take a user's message.",
            detail=error.detail or error.message,
        ) from error
    if smoke_tested is not None and spec.fingerprint not in smoke_tested:
        smoke_test_chat_model(model, spec, tokenizer.encode("The sky is", add_special_tokens=False) or [0])
        if spec.takes_images:
            _with_library(lambda: smoke_test_pictures(model, spec, tokenizer, path), spec)
        smoke_tested.add(spec.fingerprint)
    # Not on a CPU, where the kernels of a step take longer than the host does to prepare it.
    compiles, uncompiled = compiles_steps(model, spec, device)
    compiler = partial(compile_beside, device_name=device) if compiles else None
    graphs = spec.load.graphs is not False
    proof = prove(model, DecodeOptions(static=device != "cpu", graphs=graphs, compile=compiler))
    lane = ChatLane(
        model,
        tokenizer,
        cache_bytes=cache_bytes,
        max_running=spec.max_running,
        context_tokens=spec.limits.context_tokens,
        merging=proof.merging,
        takes_images=spec.takes_images,
        decode=proof.decode,
        notes=[*notes, *uncompiled, *proof.notes],
    )
    if child is not None:
        child.close()  # a lane reads prompts no more, so that its child would only take memory
    return lane


def _embedding(spec: ModelSpec, path: Path, device: str, dtype: torch.dtype, smoke_tested: set[str] | None) -> Lane:
    from models.loading.embedding import open_encoder, smoke_test_encoder
    from pipelines.embedding.lane import EmbeddingLane
    from pipelines.embedding.proof import prove

    encoder, notes = _with_library(lambda: open_encoder(spec, path, device, dtype), spec)
    if smoke_tested is not None and spec.fingerprint not in smoke_tested:
        smoke_test_encoder(encoder, spec)
        smoke_tested.add(spec.fingerprint)
    longest = spec.limits.context_tokens
    assert longest is not None, "it is read from the checkpoint"
    return EmbeddingLane(encoder, max_tokens=longest, merging=prove(encoder), notes=notes)


def _with_library(build: Callable[[], T], spec: ModelSpec) -> T:
    """Calls `build`. Errors of the library become `LoadFailed`, except out-of-memory and fatal device errors."""
    try:
        return build()
    except Exception as error:  # the libraries raise many kinds, about configs, shapes, vocabularies and packages
        if isinstance(error, ModelsError) or is_fatal(error):
            raise
        if not is_out_of_memory(error):
            raise _does_not_fit(spec, error) from error
        ran_out = error.with_traceback(None)
    release_cache()  # outside the except block, where the frames that hold the half-loaded weights are gone
    raise ran_out


def _does_not_fit(spec: ModelSpec, error: Exception) -> LoadFailed:
    return LoadFailed(
        f"The model {spec.name} failed to load: its files do not fit its pipeline.",
        detail=f"{type(error).__name__}: {error}",
    )
