"""What a diffusers pipeline class says of itself in its source, read without importing it. No torch.

Listing models must be quick and must not pull torch into the process that answers HTTP, so the class's file is parsed:
what its `__call__` takes and with which defaults, what it returns, and what its own example uses as frames per second.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from models.preflight import package_folder

# By diffusers' naming, classes that want a picture, a clip or a map besides the prompt even where the argument has a default.
NEEDS_MORE_THAN_TEXT = re.compile(
    r"Img2Img|Image2(?=[A-Z])|ImageTo|VideoTo|Inpaint|Upscale|SuperResolution|Edit|Control|Adapter|Pix2Pix|I2I|(?<!T)I2V|V2V|Refine"
    r"|Upsample|Depth2|DiffEdit|Fill|VisualCloze|Emb2Emb|Layered|Redux|InContext|Onnx|ShapE|LDM3D"
)
FRAME_COUNTS = ("num_frames", "video_length")


@dataclass(frozen=True, slots=True)
class PipelineSource:
    output: Literal["image", "video"] | None  # None: sound, embeddings, text …
    needs: tuple[str, ...]  # arguments besides the prompt that a caller must give
    arguments: frozenset[str]  # of __call__
    defaults: dict[str, int | float | str]  # the plain ones of __call__'s defaults
    constants: dict[str, int]  # self.default_sample_size = 128 and the like; `height or 1024`
    says_size: bool  # default_sample_size is that number whatever the checkpoint says
    size_multiple: int  # from checks against a plain number: height % 16
    cells_multiple: int  # from checks against the VAE's cell: height % (self.vae_scale_factor * 2)
    takes_loras: bool  # it, or a class it is made of, can load them
    takes_embeddings: bool  # likewise textual inversions
    example_fps: int | None  # of its own example's export_to_video(…, fps=16)

    @property
    def text_to(self) -> Literal["image", "video"] | None:
        """What it makes from a prompt alone; None when a prompt alone is not enough."""
        return self.output if "prompt" in self.arguments and not self.needs else None


@lru_cache(maxsize=256)
def pipeline_source(class_name: str) -> PipelineSource | None:
    """None when diffusers has no such class."""
    path = _files_by_class().get(class_name)
    if path is None:
        return None
    text = path.read_text(encoding="utf-8")
    cls = _class_in(ast.parse(text), class_name)
    call = next((node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == "__call__"), None)
    if call is None:
        return next(filter(None, (pipeline_source(base.id) for base in cls.bases if isinstance(base, ast.Name))), None)
    defaults, required = _signature(call)
    arguments = frozenset(arg.arg for arg in (*call.args.posonlyargs, *call.args.args, *call.args.kwonlyargs)) - {
        "self"
    }
    needs = [name for name in required if name != "prompt"]
    if word := NEEDS_MORE_THAN_TEXT.search(class_name):
        needs.append(f"input ({word.group()})")
    return PipelineSource(
        output=_output(call, arguments),
        needs=tuple(needs),
        arguments=arguments,
        defaults=defaults,
        constants=_constants(cls),
        says_size=_says_size(cls),
        size_multiple=_size_multiple(cls),
        cells_multiple=_cells_multiple(cls),
        takes_loras=any("LoraLoaderMixin" in _name(base) for base in cls.bases),
        takes_embeddings=any("TextualInversionLoaderMixin" in _name(base) for base in cls.bases),
        example_fps=_example_fps(text),
    )


def module_of(class_name: str) -> str | None:
    """Of any class below diffusers.pipelines, "diffusers.pipelines.…"; None when there is none of that name."""
    path = _files_by_class().get(class_name)
    if path is None:
        return None
    below = path.relative_to(package_folder("diffusers")).with_suffix("")
    return ".".join(("diffusers", *below.parts))


@lru_cache(maxsize=1)
def _files_by_class() -> dict[str, Path]:
    pattern = re.compile(rb"^class (\w+)\(", re.MULTILINE)
    found: dict[str, Path] = {}
    for path in sorted((package_folder("diffusers") / "pipelines").rglob("*.py")):
        for match in pattern.finditer(path.read_bytes()):
            found.setdefault(match[1].decode(), path)
    return found


def _class_in(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _signature(call: ast.FunctionDef) -> tuple[dict[str, int | float | str], list[str]]:
    """Plain defaults by name, and the names without any default."""
    positional = [arg.arg for arg in (*call.args.posonlyargs, *call.args.args)][1:]  # without self
    n_required = len(positional) - len(call.args.defaults)
    given = [*zip(positional[n_required:], call.args.defaults, strict=True)]
    given += [(arg.arg, value) for arg, value in zip(call.args.kwonlyargs, call.args.kw_defaults, strict=True) if value]
    defaults = {
        name: value.value
        for name, value in given
        if isinstance(value, ast.Constant) and type(value.value) in (int, float, str)
    }
    return defaults, positional[:n_required]  # type: ignore[return-value]  # the line above keeps these three types only


def _output(call: ast.FunctionDef, arguments: frozenset[str]) -> Literal["image", "video"] | None:
    """By the output object it returns: XPipelineOutput(frames=…) or (images=…); combined pipelines pass one on unnamed."""
    outputs = [
        node.value
        for node in ast.walk(call)
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


def _constants(cls: ast.ClassDef) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in ast.walk(cls):
        match node:
            case ast.Assign(targets=[ast.Attribute(attr=name)], value=value) if name.startswith("default_"):
                # self.default_sample_size = 128, also as the last choice of `a if b else 128`
                numbers = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant) and type(n.value) is int]
                if numbers and numbers[-1] > 1:
                    found[name] = numbers[-1]
            case ast.BoolOp(
                op=ast.Or(), values=[ast.Name(id=("height" | "width") as name), ast.Constant(value=int(number))]
            ):
                found[name] = number
    return found


def _says_size(cls: ast.ClassDef) -> bool:
    """`self.default_sample_size = 128`, not `… if … else 128`."""
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and any(isinstance(to, ast.Attribute) and to.attr == "default_sample_size" for to in node.targets)
        for node in ast.walk(cls)
    )


def _cells_multiple(cls: ast.ClassDef) -> int:
    multiple = 1
    for node in ast.walk(cls):
        match node:
            case ast.BinOp(
                left=ast.Name(id="height"),
                op=ast.Mod(),
                right=ast.BinOp(left=ast.Attribute(attr=factor), op=ast.Mult(), right=ast.Constant(value=int(number))),
            ) if factor.startswith("vae_scale_factor") and number > 0:
                multiple = math.lcm(multiple, number)
    return multiple


def _size_multiple(cls: ast.ClassDef) -> int:
    multiple = 1
    for node in ast.walk(cls):
        match node:
            case ast.BinOp(left=ast.Name(id="height"), op=ast.Mod(), right=ast.Constant(value=int(number))) if (
                number > 0
            ):
                multiple = math.lcm(multiple, number)
    return multiple


def _example_fps(text: str) -> int | None:
    # a clip written by its own example; frame_rate=24.0 in newer ones
    found = re.search(r"export_to_(?:video|gif|merged_video)\([^\n]*?\bfps=(\d+)", text)
    return int(found[1]) if found else None


def text_pipelines() -> Iterator[tuple[str, Literal["image", "video"]]]:
    """Every class of the installed diffusers that makes pictures or clips from a prompt alone."""
    for name in sorted(_files_by_class()):
        source = pipeline_source(name) if name.endswith("Pipeline") else None
        if source is not None and source.text_to is not None:
            yield name, source.text_to
