"""Edits of safetensors files: their headers, which become wrong, and their tensors, in files that stay well formed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.damage_copy import Copy, join_safetensors, split_safetensors

Tensors = dict[str, torch.Tensor]
DTYPES = ("F16", "BF16", "F32", "F64", "I8", "I32", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "f32", "F33")
CASTS = (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int32)
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 123456789\n".format("0" * 64)


# Headers and bytes


def _in_header(change: Callable[[Copy, dict[str, Any], list[str]], str | None]) -> Callable[[Copy], str | None]:
    """Makes an edit of a change to the header: the data stay as they are."""

    def edit(copy: Copy) -> str | None:
        path = copy.choose.choice(copy.weights())
        header, data = split_safetensors(path.read_bytes())
        what = change(copy, header, [name for name in header if name != "__metadata__"])
        if what is None:
            return None
        copy.write(path, join_safetensors(header, data))
        return f"{copy.told(path)}: {what}"

    edit.__name__ = change.__name__
    return edit


@_in_header
def dtype_in_header(copy: Copy, header: dict[str, Any], names: list[str]) -> str | None:
    name = copy.choose.choice(names)
    before = header[name]["dtype"]
    header[name]["dtype"] = copy.choose.choice([dtype for dtype in DTYPES if dtype != before])
    return f"{name} is {header[name]['dtype']}, was {before}"


@_in_header
def shape_in_header(copy: Copy, header: dict[str, Any], names: list[str]) -> str | None:
    name = copy.choose.choice(names)
    before = header[name]["shape"]
    options = (
        [*before, 1],
        [1, *before],
        before[::-1],
        [*before[:-1], -1],
        [size + 1 for size in before],
        [],
        "4",
        4.0,
    )
    header[name]["shape"] = copy.choose.choice([option for option in options if option != before])
    return f"{name} has shape {header[name]['shape']}, had {before}"


@_in_header
def offsets_in_header(copy: Copy, header: dict[str, Any], names: list[str]) -> str | None:
    name = copy.choose.choice(names)
    begin, end = header[name]["data_offsets"]
    options = ([begin + 4, end + 4], [begin, end + 4], [end, begin], [begin - 4, end - 4], [begin], [begin, 2**63])
    header[name]["data_offsets"] = copy.choose.choice(options)
    return f"{name} lies at {header[name]['data_offsets']}, lay at {[begin, end]}"


@_in_header
def name_in_header(copy: Copy, header: dict[str, Any], names: list[str]) -> str | None:
    name = copy.choose.choice(names)
    other = copy.choose.choice(
        [name + "_", "a." + name, name.replace(".", "_"), name.upper(), "", "ü" * 600, "__dict__"]
    )
    if other in header:
        return None
    header[other] = header.pop(name)
    return f"{name} is called {other[:40]!r}"


@_in_header
def entry_dropped(copy: Copy, header: dict[str, Any], names: list[str]) -> str | None:
    name = copy.choose.choice(names)
    del header[name]
    return f"{name} is not in the header"


@_in_header
def empty_tensor_added(copy: Copy, header: dict[str, Any], names: list[str]) -> str | None:
    end = max(header[name]["data_offsets"][1] for name in names)
    header["an.unknown.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    return "an empty tensor of an unknown name"


@_in_header
def metadata(copy: Copy, header: dict[str, Any], names: list[str]) -> str | None:
    options: list[Any] = [None, {}, {"format": "tf"}, {"format": 1}, [], {"format": "pt", "a": {"b": "c"}}, "pt"]
    chosen = copy.choose.choice(options)
    if chosen is None:
        header.pop("__metadata__", None)
    else:
        header["__metadata__"] = chosen
    return f"metadata is {chosen}"


def key_twice(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.weights())
    header, data = split_safetensors(path.read_bytes())
    name = copy.choose.choice([name for name in header if name != "__metadata__"])
    again = f"{{{json.dumps(name)}: {json.dumps(header[name])}, "
    copy.write(path, join_safetensors(again + json.dumps(header)[1:], data))
    return f"{copy.told(path)}: {name} is twice in the header"


def header_length(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.weights())
    content = bytearray(path.read_bytes())
    place = copy.choose.randrange(8)
    content[place] ^= 1 << copy.choose.randrange(8)
    copy.write(path, bytes(content))
    return f"{copy.told(path)}: a bit of byte {place} of the header's length"


def byte_in_header(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.weights())
    content = bytearray(path.read_bytes())
    place = copy.choose.randrange(8, 8 + int.from_bytes(content[:8], "little"))
    content[place] ^= 1 << copy.choose.randrange(8)
    copy.write(path, bytes(content))
    return f"{copy.told(path)}: a bit of byte {place}, in the header"


def truncated(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.weights())
    content = path.read_bytes()
    kept = copy.choose.choice([0, 4, 8, copy.choose.randrange(len(content)), len(content) - 1])
    copy.write(path, content[:kept])
    return f"{copy.told(path)}: {kept} of {len(content)} bytes"


def extended(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.weights())
    more = copy.choose.choice([1, 4, 4096])
    copy.write(path, path.read_bytes() + bytes(more))
    return f"{copy.told(path)}: {more} bytes more"


def other_content(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.weights())
    contents = {"a pointer of git-lfs": LFS_POINTER, "a web page": "<!DOCTYPE html><html></html>", "zeros": "\0" * 4096}
    what = copy.choose.choice(list(contents))
    copy.write(path, contents[what])
    return f"{copy.told(path)}: {what}"


# Tensors


def _in_tensors(change: Callable[[Copy, Tensors, str], str | None]) -> Callable[[Copy], str | None]:
    """Makes an edit of a change to the tensors of one file. It gets the name of one of them."""

    def edit(copy: Copy) -> str | None:
        path = copy.choose.choice(copy.weights())
        tensors = load_file(path)
        what = change(copy, tensors, copy.choose.choice(sorted(tensors)))
        if what is None:
            return None
        _save(tensors, path)
        return f"{copy.told(path)}: {what}"

    edit.__name__ = change.__name__
    return edit


def _save(tensors: Tensors, path: Path) -> None:
    path.unlink()
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


@_in_tensors
def dropped(copy: Copy, tensors: Tensors, name: str) -> str | None:
    del tensors[name]
    return f"without {name}"


@_in_tensors
def several_dropped(copy: Copy, tensors: Tensors, name: str) -> str | None:
    gone = copy.choose.sample(sorted(tensors), max(1, len(tensors) // 4))
    for each in gone:
        del tensors[each]
    return f"without {len(gone)} tensors"


@_in_tensors
def renamed(copy: Copy, tensors: Tensors, name: str) -> str | None:
    prefix, _, leaf = name.rpartition(".")
    other = copy.choose.choice(
        [f"{prefix}.{leaf}_", f"module.{name}", f"{prefix}.lora_A.{leaf}", name.replace("_", ".")]
    )
    if other in tensors:
        return None
    tensors[other] = tensors.pop(name)
    return f"{name} is called {other}"


@_in_tensors
def all_renamed(copy: Copy, tensors: Tensors, name: str) -> str | None:
    prefix = copy.choose.choice(["model.", "module.", "_orig_mod.", "text_model.", "base_model.model.", "transformer."])
    before = dict(tensors)
    tensors.clear()
    removes = all(each.startswith(prefix) for each in before)
    tensors |= {each.removeprefix(prefix) if removes else prefix + each: tensor for each, tensor in before.items()}
    return f"all names {'without' if removes else 'with'} {prefix}"


@_in_tensors
def transposed(copy: Copy, tensors: Tensors, name: str) -> str | None:
    wide = [each for each in sorted(tensors) if tensors[each].ndim >= 2]
    if not wide:
        return None
    name = copy.choose.choice(wide)
    tensors[name] = tensors[name].transpose(0, 1)
    return f"{name} transposed to {list(tensors[name].shape)}"


@_in_tensors
def other_shape(copy: Copy, tensors: Tensors, name: str) -> str | None:
    before = tensors[name]
    if not before.numel():
        return None
    options = [before.flatten(), before[None], before[..., None], before[..., :-1], torch.cat([before, before])]
    chosen = copy.choose.choice([option for option in options if option.shape != before.shape])
    tensors[name] = chosen
    return f"{name} has shape {list(chosen.shape)}, had {list(before.shape)}"


@_in_tensors
def values(copy: Copy, tensors: Tensors, name: str) -> str | None:
    if not tensors[name].is_floating_point():
        return None
    value = copy.choose.choice([float("nan"), float("inf"), float("-inf"), 0.0, 1e30])
    whole = copy.choose.random() < 0.5
    if whole:
        tensors[name] = torch.full_like(tensors[name], value)
    else:
        tensors[name].view(-1)[copy.choose.randrange(tensors[name].numel())] = value
    return f"{'all' if whole else 'one'} of {name} {value}"


@_in_tensors
def swapped(copy: Copy, tensors: Tensors, name: str) -> str | None:
    others = [each for each in sorted(tensors) if each != name and tensors[each].shape == tensors[name].shape]
    if not others:
        return None
    other = copy.choose.choice(others)
    tensors[name], tensors[other] = tensors[other], tensors[name]
    return f"{name} and {other} in each other's place"


@_in_tensors
def cast(copy: Copy, tensors: Tensors, name: str) -> str | None:
    dtype = copy.choose.choice(CASTS)
    tensors[name] = tensors[name].to(dtype)
    return f"{name} as {dtype}"


@_in_tensors
def all_cast(copy: Copy, tensors: Tensors, name: str) -> str | None:
    dtype = copy.choose.choice(CASTS)
    tensors |= {each: t.to(dtype) for each, t in tensors.items() if t.is_floating_point()}
    return f"all floats as {dtype}"


@_in_tensors
def added(copy: Copy, tensors: Tensors, name: str) -> str | None:
    other = copy.choose.choice(["an.unknown.weight", name + "_ema", "model_ema.decay", "position_ids", name + ".scale"])
    tensors[other] = torch.rand(
        tensors[name].shape, generator=torch.Generator().manual_seed(copy.choose.randrange(999))
    )
    return f"with {other}"


HEADER = (header_length, byte_in_header, dtype_in_header, shape_in_header, offsets_in_header, name_in_header,
          entry_dropped, empty_tensor_added, metadata, key_twice, truncated, extended, other_content)  # fmt: skip
TENSOR = (dropped, several_dropped, renamed, all_renamed, transposed, other_shape, values, swapped, cast, all_cast,
          added)  # fmt: skip
