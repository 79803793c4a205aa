"""Which calls of a module can share one forward, and how to join and split them. Pure functions over tensors.

Two calls merge when module, entry point and argument structure are the same, other arguments are equal, and each tensor is
  rows    batch-leading, with equal trailing shape and dtype: concatenated; so are prompts of three dimensions that lead with
          rows * frames, where the first argument has five: given for each frame
  places  batch-leading whole numbers of three dimensions or more, the coordinates of tokens: concatenated, but equal by
          value too, because models read them from the first row
  scalar  0-d or one element, such as the timestep: one value per row
  shared  anything else, equal by value: passed once
A list with one entry per row counts as rows. Whether a module keeps its rows apart is not assumed here: it is proved
on real calls (`rendezvous.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from pipelines.batching import torch_modes

Structure: TypeAlias = tuple[Hashable, ...]  # component, entry, then how its arguments are built
Kind: TypeAlias = str  # "rows" | "places" | "list" | "scalar" | "shared" | "generator" | "value"
_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)

# Digests of shared tensors (position ids, rotary tables): made once per job and passed at every step, so hashed once.
# A module global because a tensor's bytes are a fact about the tensor, not about any lane; device thread only.
# Kept with the tensor's version: one that is written to in place is hashed again.
_digests: WeakIdKeyDictionary = WeakIdKeyDictionary()


@dataclass(frozen=True, slots=True)
class Call:
    """A call of `function`, held back. `component` and `entry` name it: "transformer", "forward"."""

    component: str
    entry: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    ambient: torch_modes.TorchModes = field(default_factory=torch_modes.current)  # torch's modes where it was called

    def run(self) -> Any:
        return self.function(*self.args, **self.kwargs)


@dataclass(frozen=True, slots=True)
class Form:
    """A call seen for merging: calls with equal `key` may share a forward.

    `structure` says how they would be joined, whatever their sizes; `shape` is that with the sizes.
    """

    key: Hashable
    structure: Structure
    shape: Hashable


@dataclass(frozen=True, slots=True)
class Extent:
    """What tensors of a call lead with that has its rows."""

    rows: int
    framed: frozenset[int] = frozenset()  # rows * frames, where the rows are clips: of whichever axis they are


class Unmergeable(Exception):
    """The joined call gave something that cannot be split by rows."""


def form_of(call: Call) -> Form | None:
    """None when no argument shows the number of rows."""
    extent = _extent(call)
    if extent is None:
        return None
    leaves, spec = _flatten(call, extent.rows)
    described = [_describe(leaf, extent) for leaf in leaves]
    switches = tuple(leaf for leaf in leaves if leaf is None or isinstance(leaf, bool))  # they choose code paths
    structure = (call.component, call.entry, spec, tuple(kind for kind, _ in described), switches, call.ambient)
    shape = (structure, extent.rows, tuple(detail for kind, detail in described if kind == "rows"))
    return Form((shape, tuple(detail for _, detail in described)), structure, shape)


def run_merged(calls: Sequence[Call], width: int) -> list[Any]:
    """Run calls of one `Form.key` as one forward, padded with repeats of the last to `width` calls; one output per call.

    Raises `Unmergeable` when an output leaf does not lead with all rows.
    """
    padded = [*calls, *[calls[-1]] * (width - len(calls))]
    extent = _extent(calls[0])
    assert extent is not None, "calls without rows have no form"
    flat = [_flatten(call, extent.rows) for call in padded]
    leaves, spec = flat[0]
    place = next((leaf.device for leaf in leaves if _describe(leaf, extent)[0] == "rows"), None)
    joined = [_join(column, extent, place) for column in zip(*(leaves for leaves, _ in flat), strict=True)]
    args, kwargs = pytree.tree_unflatten(joined, spec)
    return _split(calls[0].function(*args, **kwargs), extent.rows, width)[: len(calls)]


def stranger(call: Call) -> Call:
    """A call of the same `Form.key` with other values in every row and scalar: its own, turned round or moved.

    What a module makes of it shows whether rows leak into each other, even where all real calls are alike.
    """
    extent = _extent(call)
    assert extent is not None, "calls without rows have no form"
    leaves, spec = _flatten(call, extent.rows)
    args, kwargs = pytree.tree_unflatten([_altered(leaf, extent) for leaf in leaves], spec)
    return replace(call, args=args, kwargs=kwargs)


def bucket(count: int, most: int) -> tuple[int, int]:
    """How many of `count` calls to take, and the width to run them at: a power of two, padded by at most a quarter.

    A constant width gives bit-identical rows whatever the neighbours, so only few widths are used.
    """
    count = min(count, most)
    below = 1 << (count.bit_length() - 1)
    above = below if below == count else below * 2
    if above <= most and count * 4 >= above * 3:
        return count, above
    return below, below


def difference(one: Any, other: Any) -> float:
    """Largest absolute difference of two outputs, relative to the larger of 1 and the values' own size; inf where they don't compare."""
    ours, spec = pytree.tree_flatten(one)
    theirs, other_spec = pytree.tree_flatten(other)
    if spec != other_spec:
        return float("inf")
    return max((_leaf_difference(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def generators_of(call: Call) -> list[torch.Generator]:
    return [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, torch.Generator)]


def _extent(call: Call) -> Extent | None:
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, torch.Tensor) and value.ndim >= 2:
            frames = value.shape[1:3] if value.ndim == 5 else ()
            return Extent(value.shape[0], frozenset(value.shape[0] * n for n in frames if n > 1))
        if isinstance(value, list) and value and all(isinstance(item, torch.Tensor) for item in value):
            return Extent(len(value))
    return None


def _flatten(call: Call, rows: int) -> tuple[list[Any], pytree.TreeSpec]:
    def one_per_row(node: Any) -> bool:
        return isinstance(node, list) and len(node) == rows and all(isinstance(x, (torch.Tensor, str)) for x in node)

    return pytree.tree_flatten((call.args, call.kwargs), is_leaf=one_per_row)


def _describe(leaf: Any, extent: Extent) -> tuple[Kind, Hashable]:
    rows = extent.rows
    match leaf:
        case torch.Tensor() if (
            leaf.ndim >= 3 and leaf.shape[0] == rows and not leaf.is_floating_point() and leaf.dtype != torch.bool
        ):
            return "places", _digest(leaf)
        case torch.Tensor() if leaf.ndim > 0 and leaf.shape[0] == rows:
            return "rows", (leaf.shape[1:], leaf.dtype)
        case torch.Tensor() if leaf.ndim == 3 and leaf.is_floating_point() and leaf.shape[0] in extent.framed:
            return "rows", (leaf.shape, leaf.dtype)
        case torch.Tensor() if leaf.numel() == 1:
            return "scalar", leaf.dtype
        case torch.Tensor():
            return "shared", _digest(leaf)
        case torch.Generator():
            return "generator", None
        case list():
            return "list", None
        case _ if isinstance(leaf, _PLAIN):
            return "value", (type(leaf), leaf)
        case _:
            return "value", id(leaf)


def _digest(tensor: torch.Tensor) -> Hashable:
    version = -1 if tensor.is_inference() else tensor._version
    known: tuple[int, Hashable] | None = _digests.get(tensor)
    if known is not None and known[0] == version != -1:
        return known[1]
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    digest = (tuple(tensor.shape), tensor.dtype, hashlib.blake2b(raw.data, digest_size=16).digest())
    _digests[tensor] = (version, digest)
    return digest


def _join(column: tuple[Any, ...], extent: Extent, place: torch.device | None) -> Any:
    """place: where the rows are; a scalar may be elsewhere, but one with rows may not."""
    kind, _ = _describe(column[0], extent)
    match kind:
        case "rows" | "places":
            return torch.cat(column)
        case "scalar":
            return torch.cat([value.reshape(1).expand(extent.rows) for value in column]).to(place)
        case "list":
            return [item for part in column for item in part]
        case _:
            return column[0]


def _altered(leaf: Any, extent: Extent) -> Any:
    kind, _ = _describe(leaf, extent)
    if kind == "list":
        return [
            _altered(item[None], Extent(1))[0] if isinstance(item, torch.Tensor) and item.ndim else item
            for item in leaf
        ]
    if kind not in ("rows", "scalar") or leaf.dtype == torch.bool:
        return leaf
    turned = leaf.flip(tuple(range(1, leaf.ndim))) if leaf.ndim >= 2 else leaf
    if leaf.is_floating_point():
        return turned * 0.5 + 0.25
    if leaf.ndim >= 2 and bool((leaf <= 1).all()):
        return leaf  # a mask: turned round it might mask everything
    halved = leaf // 2 + (
        leaf.ndim == 0
    )  # stays within a vocabulary, or a table of styles; a timestep is never the same
    return halved if torch.equal(turned, leaf) else turned


def _split(output: Any, rows: int, width: int) -> list[Any]:
    def one_per_row(node: Any) -> bool:
        return isinstance(node, list) and len(node) == rows * width

    leaves, spec = pytree.tree_flatten(output, is_leaf=one_per_row)
    parts: list[list[Any]] = [[] for _ in range(width)]
    for leaf in leaves:
        sliceable = isinstance(leaf, list) or (
            isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == rows * width
        )
        if not sliceable and not isinstance(leaf, _PLAIN):
            raise Unmergeable(f"an output of {type(leaf).__name__} does not lead with {rows * width} rows")
        for i, part in enumerate(parts):
            part.append(leaf[i * rows : (i + 1) * rows] if sliceable else leaf)
    return [pytree.tree_unflatten(part, spec) for part in parts]


def _leaf_difference(a: Any, b: Any) -> float:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return 0.0 if a is b or a == b else float("inf")
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    gap = float((a.float() - b.float()).abs().max())
    return gap / max(1.0, float(a.float().abs().max())) if gap == gap else float("inf")
