"""Computes how many bytes an offloaded checkpoint has on the device at once, from file headers. Any thread; no torch.

It follows diffusers' group offload by blocks. While a component runs, the device holds the current block of each
top-level list, the next one that is prefetched, and everything that is in no such list. A text encoder of transformers
keeps its blocks one level deeper, so it is on the device whole.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from models.files.safetensors_header import read_safetensors_header
from models.files.weight_files import weight_files

BLOCKS_ON_DEVICE = 2  # the block that runs and the one that is prefetched


def offloaded_device_bytes(folder: Path, float_bytes: int) -> int:
    """Returns the bytes of the component that needs most.

    folder: a pipeline's. float_bytes: the width of every float as it is served.
    """
    components = [sub for sub in folder.iterdir() if sub.is_dir() and weight_files(sub)]
    return max((_component_bytes(component, float_bytes) for component in components), default=0)


def _component_bytes(folder: Path, float_bytes: int) -> int:
    blocks: Counter[str] = Counter()
    rest = 0
    for path in weight_files(folder):
        for name, tensor in read_safetensors_header(path).items():
            n_bytes = tensor.bytes_at(float_bytes)
            top, _, below = name.partition(".")
            number = below.partition(".")[0]
            if number.isdigit():
                blocks[f"{top}.{number}"] += n_bytes
            else:
                rest += n_bytes
    return rest + sum(sorted(blocks.values())[-BLOCKS_ON_DEVICE:])
