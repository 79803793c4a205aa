"""Recognizes upscalers by the names and shapes of their tensors, and reads the factor by which they enlarge.

Pure functions; no torch. These are the architectures that most published upscalers have. Of files of others, which
spandrel opens too, the entry in models.toml says the factor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from models.adapters.single_file_adapter import SingleFileAdapter
from models.errors import BadModel
from models.files.weight_header import Tensors

PREFIXES = ("params_ema.", "params.", "module.", "netG.", "model_state_dict.", "state_dict.")  # of trainers
SCALE = "scale"  # in the config of an upscaler


def read_upscaler_file(tensors: Tensors) -> SingleFileAdapter | None:
    """Returns None for a file that is none of these. Raises `BadModel` for one that makes no pictures in color."""
    bare = _bare(tensors)
    for architecture, is_one, scale_of in ARCHITECTURES:
        if is_one(bare):
            scale = scale_of(bare)
            if scale is None:
                raise BadModel(f"is an upscaler ({architecture}) whose tensors do not tell a whole factor")
            return SingleFileAdapter("upscaler", architecture, {SCALE: scale})
    return None


def _bare(tensors: Tensors) -> Tensors:
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _is_esrgan(tensors: Tensors) -> bool:
    return {"model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"} <= tensors.keys() or (
        {"conv_first.weight", "conv_last.weight"} <= tensors.keys()
        and bool(tensors.keys() & {"body.0.rdb1.conv1.weight", "RRDB_trunk.0.RDB1.conv1.weight"})
    )


def _scale_of_esrgan(tensors: Tensors) -> int | None:
    """A doubling for each convolution between the blocks and the last two, less what the input was folded by."""
    if "model.0.weight" in tensors:
        first, length = "model.0.weight", _highest(tensors, r"model\.(\d+)\.") + 1
        doublings, last = (length - 5) // 3, f"model.{length - 1}.weight"
    else:
        first, last = "conv_first.weight", "conv_last.weight"
        doublings = sum(re.fullmatch(r"(upconv|conv_up)\d\.weight", name) is not None for name in tensors)
    n_in, n_out = tensors[first].shape[1], tensors[last].shape[0]
    folded = math.isqrt(n_in // n_out)
    scale = 2**doublings
    return scale // folded if folded * folded * n_out == n_in and scale % folded == 0 else None


def _is_compact(tensors: Tensors) -> bool:
    return all(name.startswith("body.") for name in tensors) and {"body.0.weight", "body.1.weight"} <= tensors.keys()


def _scale_of_compact(tensors: Tensors) -> int | None:
    last = _highest(tensors, r"body[.](\d+)[.]")
    return _root(tensors[f"body.{last}.weight"].shape[0], tensors["body.0.weight"].shape[1])


def _is_span(tensors: Tensors) -> bool:
    return {"block_1.c1_r.sk.weight", "upsampler.0.weight", "conv_1.sk.weight"} <= tensors.keys()


def _scale_of_span(tensors: Tensors) -> int | None:
    return _root(tensors["upsampler.0.weight"].shape[0], 3)


def _root(n_folded: int, n_channels: int) -> int | None:
    """The factor of a layer that folds the pixels of a larger picture into its channels."""
    scale = math.isqrt(n_folded // max(1, n_channels))
    return scale if scale > 0 and scale * scale * n_channels == n_folded else None


def _highest(tensors: Tensors, pattern: str) -> int:
    return max((int(match[1]) for name in tensors if (match := re.match(pattern, name))), default=0)


ARCHITECTURES: tuple[tuple[str, Callable[[Tensors], bool], Callable[[Tensors], int | None]], ...] = (
    ("ESRGAN", _is_esrgan, _scale_of_esrgan),  # Real-ESRGAN, BSRGAN, UltraSharp, Remacri …
    ("Compact", _is_compact, _scale_of_compact),  # realesr-general, realesr-animevideo
    ("SPAN", _is_span, _scale_of_span),
)
