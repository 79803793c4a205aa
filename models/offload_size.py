"""How much of a checkpoint is on the device at once when its blocks visit one after the other. From file headers; no torch.

As diffusers' group offload by blocks does it: of the component that runs, a block of a list at the top and, read ahead, the next one; whatever is in no such
list stays while the component runs. A text encoder of transformers keeps its blocks one level deeper, so that it visits whole.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from models.files import DTYPE_BYTES, FLOAT_DTYPES, read_safetensors_header, weight_files

AHEAD = 2  # the block that runs, and the one that is being fetched


def visiting_bytes(folder: Path, float_bytes: int) -> int:
    """Of the component that takes most. `folder`: of a pipeline; every float is served `float_bytes` wide."""
    components = [sub for sub in folder.iterdir() if sub.is_dir() and weight_files(sub)]
    return max((_of_component(component, float_bytes) for component in components), default=0)


def _of_component(folder: Path, float_bytes: int) -> int:
    blocks: Counter[str] = Counter()
    rest = 0
    for path in weight_files(folder):
        for name, tensor in read_safetensors_header(path).items():
            n_bytes = tensor.elements * (float_bytes if tensor.dtype in FLOAT_DTYPES else DTYPE_BYTES[tensor.dtype])
            top, _, below = name.partition(".")
            number = below.partition(".")[0]
            if number.isdigit():
                blocks[f"{top}.{number}"] += n_bytes
            else:
                rest += n_bytes
    return rest + sum(sorted(blocks.values())[-AHEAD:])
