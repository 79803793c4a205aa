"""Reads what a diffusers pipeline class takes and returns from its source, without importing it. Any thread; no torch.

Listing models must be quick and must not load torch into the process that answers HTTP. So the class's file is parsed:
the parameters and defaults of its `__call__`, the object that it returns, the frames per second in its example.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from models.checkpoint.pipeline_inputs import PipelineInputs, inputs_of, unserved_reason
from models.installed_libraries import package_folder, pipeline_files
from models.pipeline_class import pipeline_class

FRAME_COUNTS = ("num_frames", "video_length")  # the parameters that pipelines count frames with


@dataclass(frozen=True, slots=True)
class PipelineSource:
    output: Literal["image", "video"] | None  # None: sound, embeddings, text …
    arguments: frozenset[str]  # parameters of __call__
    inputs: tuple[PipelineInputs, ...]  # the pictures and clips that it takes: alternatives
    unserved: str | None  # why no request can give it what it needs; None: a request can
    defaults: dict[str, int | float | str]  # those defaults of __call__ that are plain numbers or texts
    constants: dict[str, int]  # from `self.default_sample_size = 128` and `height or 1024`
    fixed_sample_size: bool  # default_sample_size is a constant, whatever the checkpoint's config has
    size_multiple: int  # from checks against a plain number: height % 16
    cells_multiple: int  # from checks against the VAE's cell: height % (self.vae_scale_factor * 2)
    takes_loras: bool  # the class has a loader of LoRAs among its bases
    takes_embeddings: bool  # the class has a loader of textual inversions among its bases
    rounds_steps_down: bool  # it runs int(steps * strength) steps; others round up
    shifts_schedule: bool  # it tells the noise scheduler `mu`, by which a large picture gets another schedule
    checks_references: bool  # it refuses references that are small or long: Flux2ImageProcessor.check_image_input
    patches_frames: bool  # it refuses a number of latent frames that the denoiser's patches do not divide
    example_fps: int | None  # from export_to_video(…, fps=16) in the example of its docstring

    @property
    def text_to(self) -> Literal["image", "video"] | None:
        """Returns what a prompt alone makes, None when the pipeline needs more than a prompt."""
        enough = any(not each.required for each in self.inputs)
        return self.output if "prompt" in self.arguments and self.unserved is None and enough else None

    @property
    def makes(self) -> Literal["image", "video"] | None:
        """Returns what a request makes with it, None when it makes neither or needs what no request has."""
        takes_something = "prompt" in self.arguments or all(each.required for each in self.inputs)
        return self.output if takes_something and self.unserved is None else None


@lru_cache(maxsize=1024)  # more than there are classes: one too few, and a walk over all of them never finds any
def pipeline_source(class_name: str) -> PipelineSource | None:
    """Returns None when diffusers has no such class."""
    found = pipeline_class(class_name)
    if found is None:
        return None
    cls, text = found
    nodes = [node for node in ast.walk(cls) if isinstance(node, ast.Assign | ast.BoolOp | ast.BinOp | ast.Return)]
    call = next((node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__call__"), None)
    if call is None:
        return next(filter(None, (pipeline_source(base.id) for base in cls.bases if isinstance(base, ast.Name))), None)
    defaults, required = _signature(call)
    arguments = frozenset(arg.arg for arg in (*call.args.posonlyargs, *call.args.args, *call.args.kwonlyargs)) - {
        "self"
    }
    inputs = inputs_of(class_name, arguments, required)
    own_text = "\n".join(text.split("\n")[cls.lineno - 1 : cls.end_lineno])
    return PipelineSource(
        output=_output([node for node in nodes if _is_within(node, call)], arguments),
        arguments=arguments,
        inputs=inputs,
        unserved=unserved_reason(class_name, required, inputs),
        defaults=defaults,
        constants=_constants(nodes),
        fixed_sample_size=_fixed_sample_size(nodes),
        size_multiple=_size_multiple(nodes),
        cells_multiple=_cells_multiple(nodes),
        takes_loras=any("LoraLoaderMixin" in _name(base) for base in cls.bases),
        takes_embeddings=any("TextualInversionLoaderMixin" in _name(base) for base in cls.bases),
        rounds_steps_down="int(num_inference_steps * strength)" in own_text,
        shifts_schedule=re.search(r"\bmu\b", own_text) is not None,
        checks_references="check_image_input(" in own_text,
        patches_frames="must be divisible by `{patch_size_t=}`" in own_text,
        example_fps=_example_fps(text),
    )


def module_of(class_name: str) -> str | None:
    """Returns the module ("diffusers.pipelines.…") that defines a class, None when diffusers has no such class."""
    path = pipeline_files().get(class_name)
    if path is None:
        return None
    module = path.relative_to(package_folder("diffusers")).with_suffix("")
    return ".".join(("diffusers", *module.parts))


def _signature(call: ast.FunctionDef) -> tuple[dict[str, int | float | str], list[str]]:
    """Returns name → plain default, and the names of parameters without a default."""
    positional = [arg.arg for arg in (*call.args.posonlyargs, *call.args.args)][1:]  # drops self
    n_required = len(positional) - len(call.args.defaults)
    given = [*zip(positional[n_required:], call.args.defaults, strict=True)]
    given += [(arg.arg, value) for arg, value in zip(call.args.kwonlyargs, call.args.kw_defaults, strict=True) if value]
    defaults = {
        name: value.value
        for name, value in given
        if isinstance(value, ast.Constant) and type(value.value) in (int, float, str)
    }
    return defaults, positional[:n_required]  # type: ignore[return-value]  # only these three types pass the `if`


def _is_within(node: ast.stmt | ast.expr, outer: ast.FunctionDef) -> bool:
    return outer.end_lineno is not None and outer.lineno <= node.lineno <= outer.end_lineno


def _output(nodes: Sequence[ast.AST], arguments: frozenset[str]) -> Literal["image", "video"] | None:
    """Judges by the returned object: XPipelineOutput(frames=…) or (images=…).

    Combined pipelines return a plain name.
    """
    outputs = [
        node.value
        for node in nodes
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Call)
        and _name(node.value.func).endswith("Output")
    ]
    fields = {keyword.arg for output in outputs for keyword in output.keywords}
    names = " ".join(_name(output.func) for output in outputs)
    if fields & {"frames", "video"} or (fields & {"images"} and arguments.intersection(FRAME_COUNTS)):
        return "video"
    if fields & {"images", "image"} or "ImagePipelineOutput" in names or not outputs:
        return "image"
    return None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _constants(nodes: Sequence[ast.AST]) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Attribute(attr=name)], value=value) if name.startswith("default_"):
                # `self.default_sample_size = 128`, or the last number of `a if b else 128`
                numbers = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant) and type(n.value) is int]
                if numbers and numbers[-1] > 1:
                    found[name] = numbers[-1]
            case ast.BoolOp(
                op=ast.Or(), values=[ast.Name(id=("height" | "width") as name), ast.Constant(value=int(number))]
            ):
                found[name] = number
    return found


def _fixed_sample_size(nodes: Sequence[ast.AST]) -> bool:
    """Returns whether the class has `self.default_sample_size = 128` rather than `… if … else 128`."""
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and any(isinstance(target, ast.Attribute) and target.attr == "default_sample_size" for target in node.targets)
        for node in nodes
    )


def _cells_multiple(nodes: Sequence[ast.AST]) -> int:
    multiple = 1
    for node in nodes:
        match node:
            case ast.BinOp(
                left=ast.Name(id="height"),
                op=ast.Mod(),
                right=ast.BinOp(left=ast.Attribute(attr=factor), op=ast.Mult(), right=ast.Constant(value=int(number))),
            ) if factor.startswith("vae_scale_factor") and number > 0:
                multiple = math.lcm(multiple, number)
    return multiple


def _size_multiple(nodes: Sequence[ast.AST]) -> int:
    multiple = 1
    for node in nodes:
        match node:
            case ast.BinOp(left=ast.Name(id="height"), op=ast.Mod(), right=ast.Constant(value=int(number))) if (
                number > 0
            ):
                multiple = math.lcm(multiple, number)
    return multiple


def _example_fps(text: str) -> int | None:
    found = re.search(r"export_to_(?:video|gif|merged_video)\([^\n]*?\bfps=(\d+)", text)
    return int(found[1]) if found else None


def text_pipelines() -> Iterator[tuple[str, Literal["image", "video"]]]:
    """Yields every class of the installed diffusers that makes images or video from a prompt alone."""
    for name in sorted(pipeline_files()):
        source = pipeline_source(name) if name.endswith("Pipeline") else None
        if source is not None and source.text_to is not None:
            yield name, source.text_to
