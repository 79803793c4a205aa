"""Smoke test of a model that was just loaded: one step must give finite numbers that are not all the same.

A checkpoint with sound files can still contain NaN and would serve black images. Device thread only, through the lane.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from models.errors import LoadFailed
from models.loading.trial_inputs import trial_inputs
from models.spec import ModelSpec
from pipelines.chat_interface import Message, MessageImage
from pipelines.diffusion_interface import ENLARGES, DiffusionRequest, Inputs
from pipelines.interface import Failed, Lane, Rendered, Update

# Of the first trials: small, because the load waits for them. Some families cannot make 64 pixels, or a clip as short
# as possible (Kandinsky 5 evens out the first four latent frames by those that follow).
SIDES_PIXELS = (64, 256)
LENGTHS = (1, 4)  # times the multiple of the number of frames
OTHER_PROMPTS = {"BriaFiboEditPipeline": '{"edit_instruction": "a red ball on grass"}'}  # it takes JSON alone
ALIKE = 1e-6  # spread of logits that differ by rounding alone, relative to the largest
MAX_DETAIL = 1000  # characters of an error's own text
MAX_LANE_STEPS = 10_000  # a trial of one denoise step takes a handful


def smoke_test(lane: Lane, spec: ModelSpec) -> None:
    """Renders images until one has finite, varying pixels. Raises `LoadFailed` when none has.

    A model that needs a picture or a clip is given one.
    """
    needed = spec.tasks[0].required if spec.tasks else frozenset()
    with tempfile.TemporaryDirectory(prefix="agentname-trial-") as folder:
        _try_all(lane, spec, trial_inputs(needed, Path(folder)))


def _try_all(lane: Lane, spec: ModelSpec, inputs: Inputs) -> None:
    problem, details, n_not_finite = "", dict[str, None](), 0
    # The native size comes last, for a family that cannot make a small one.
    small = (_small(spec, *sizes) for sizes in zip(SIDES_PIXELS, LENGTHS, strict=True))
    trials = [*small, _native(spec, steps=2)]
    for trial in trials:
        request = _with_inputs(trial, spec, inputs)
        if n_not_finite == len(SIDES_PIXELS):
            break  # broken weights: the native size of a video model may take minutes to tell the same
        match _run(lane, request):
            case Rendered(flagged=True):
                return  # its safety checker has seen a picture
            case Rendered(frames=frames):
                values = np.asarray(frames)
                if values.size and float(values.max()) - float(values.min()) > 0 and np.isfinite(values).all():
                    return
                problem = "its weights are broken: a one-step trial gave a single color"
            case Failed(code=code, message=message, detail=detail):
                details[_own_error(detail)] = None
                n_not_finite += code == "invalid_output"
                usual = spec.defaults.steps or 2
                if code == "bad_request" and request.steps == 2 != usual:
                    trials.append(_native(spec, usual))  # Ideogram 4 has one guidance value for each step
                reason = f" ({message.rstrip('.')})" if code in ("invalid_output", "out_of_memory") else ""
                problem = problem or f"a one-step trial failed{reason}"
            case _:
                problem = problem or "a one-step trial gave no result"
    raise LoadFailed(f"The model {spec.name} failed to load: {problem}.", detail="; ".join(details))


def smoke_test_chat_model(model: Any, spec: ModelSpec, tokens: list[int]) -> None:
    """Runs one forward over a few tokens, before the lane is made. Raises `LoadFailed` unless the logits are sound."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits.float()
    _check_logits(logits, spec)


def smoke_test_pictures(model: Any, spec: ModelSpec, tokenizer: Any, path: Path) -> None:
    """Shows a vision-language model a picture. Raises as `smoke_test_chat_model`, and what the library raises."""
    from models.loading.processor import open_pictures
    from pipelines.chat.lone_sequences import VisionSequence
    from pipelines.chat.prompts.read_prompt import read_prompt

    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((96, 64)).save(buffer, "PNG")
    question = Message("user", "What is this?", images=(MessageImage(0, buffer.getvalue()),))
    prompt = read_prompt(tokenizer, [question], pictures=open_pictures(path, tokenizer))
    with torch.inference_mode():
        logits = VisionSequence(model, list(prompt.tokens), prompt.media, scored=False).read().float()
    _check_logits(logits, spec)


def _check_logits(logits: torch.Tensor, spec: ModelSpec) -> None:
    if not torch.isfinite(logits).all():
        problem = "a trial forward gave no finite numbers"
    elif float((logits / logits.abs().max()).nan_to_num().std(dim=-1).max()) < ALIKE:
        problem = "a trial forward found all tokens equally likely"
    else:
        return
    raise LoadFailed(f"The model {spec.name} failed to load: its weights are broken: {problem}.")


def _own_error(traceback: str) -> str:
    """Returns the error at the end of a traceback, "ValueError: …" with all lines of its text, without the frames."""
    lines = traceback.strip().splitlines()
    begin, in_frame = 0, False
    for number, line in enumerate(lines):
        in_frame = line.startswith('  File "') or (in_frame and line.startswith("    "))
        if in_frame:
            begin = number + 1
    return "\n".join(lines[begin:])[:MAX_DETAIL]


def _run(lane: Lane, request: DiffusionRequest) -> Update | None:
    lane.admit(request)
    for _ in range(MAX_LANE_STEPS):
        for update in lane.step():
            if isinstance(update, Rendered | Failed):
                return update
    lane.cancel(request.id)
    return None


def _small(spec: ModelSpec, side: int, length: int) -> DiffusionRequest:
    grid = spec.limits.size_multiple
    native = (spec.defaults.width or 512, spec.defaults.height or 512)
    side = max(grid, min(side, *native) // grid * grid)
    # At least two: the guidance of Stable Video Diffusion rises from the first frame, which has none, to the last.
    least = max(2, length * spec.limits.frames_multiple + spec.limits.frames_remainder)
    frames = least if spec.type == "video" else None
    return _request(spec, side, side, frames, steps=1)


def _native(spec: ModelSpec, steps: int) -> DiffusionRequest:
    defaults = spec.defaults
    return _request(spec, defaults.width or 512, defaults.height or 512, defaults.num_frames, steps)


def _with_inputs(request: DiffusionRequest, spec: ModelSpec, inputs: Inputs) -> DiffusionRequest:
    if inputs == Inputs():
        return request
    task = spec.tasks[0]
    enlarged = ENLARGES.get(task.pipeline, 1)
    return replace(
        request,
        width=request.width * enlarged,
        height=request.height * enlarged,
        pipeline=task.pipeline,
        inputs=inputs,
        input_arguments=task.inputs,
        strength=1.0 if "strength" in task.arguments else None,  # a part of one step would be none
    )


def _request(spec: ModelSpec, width: int, height: int, num_frames: int | None, steps: int) -> DiffusionRequest:
    return DiffusionRequest(
        id=f"smoke-{width}x{height}",
        prompt=OTHER_PROMPTS.get(spec.pipeline or "", "a red ball on grass"),
        negative_prompt=spec.defaults.negative_prompt,
        width=width,
        height=height,
        num_frames=num_frames,
        steps=steps,
        guidance_scale=spec.defaults.guidance_scale,
        guidance_argument=spec.guidance_argument,
        seed=0,
        deterministic=True,
        call=dict(spec.call),
    )
