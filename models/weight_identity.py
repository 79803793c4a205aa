"""Recognizes the same language model in two checkpoints by its weights, not by its path. Any thread; no torch.

Flux 2 klein contains a whole Qwen 3 as its text encoder: a server that also chats with it has the same weights in two
folders. A sample of each tensor is hashed; two trainings of one network differ in it.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from models.files.json_files import read_config
from models.files.regular_file import open_file
from models.files.weight_files import weight_files
from models.fingerprint import fingerprint

DECODERS = ("ForCausalLM", "GPT2LMHeadModel")  # suffixes of transformers' class names; the second predates the rule
SAMPLE_BYTES = 512  # from the middle of each tensor
INCIDENTAL_KEYS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def is_decoder(folder: Path) -> bool:
    config = folder / "config.json"
    architectures = read_config(config).get("architectures") if config.is_file() else None
    return isinstance(architectures, list) and any(str(name).endswith(DECODERS) for name in architectures)


def weight_identity(folder: Path) -> str:
    """Returns the same text for two checked folders of transformers with the same weights and architecture."""
    return _weight_identity(folder, fingerprint(folder))


@lru_cache(maxsize=256)
def _weight_identity(folder: Path, _fingerprint: str) -> str:
    config = {key: value for key, value in read_config(folder / "config.json").items() if key not in INCIDENTAL_KEYS}
    samples = [line for file in weight_files(folder) for line in _samples(file)]
    lines = [json.dumps(config, sort_keys=True), *sorted(samples)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _samples(path: Path) -> list[str]:
    """Returns one line per tensor: its name, dtype, shape and the hash of its sample."""
    found = []
    with open_file(path) as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(header_bytes))
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            file.seek(8 + header_bytes + begin + max(0, end - begin - SAMPLE_BYTES) // 2)
            sample = hashlib.sha256(file.read(min(SAMPLE_BYTES, end - begin))).hexdigest()
            found.append(f"{name} {entry['dtype']} {entry['shape']} {sample}")
    return found
