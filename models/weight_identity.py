"""Which language models inside checkpoints are the same one, told by their weights and not by where they lie. No torch.

Flux 2 klein carries a whole Qwen 3 as its text encoder: whoever also chats with it has the same weights in two folders.
Of every tensor a few hundred bytes are read; two trainings of a network do not agree on those.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from models.files import weight_files
from models.fingerprint import fingerprint
from models.preflight import read_config

DECODERS = ("ForCausalLM", "GPT2LMHeadModel")  # how transformers names them; the second is older than the rule
SAMPLE_BYTES = 512  # of each tensor, from its middle
INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def is_decoder(folder: Path) -> bool:
    architectures = read_config(folder / "config.json").get("architectures") if (folder / "config.json").is_file() else None  # fmt: skip
    return isinstance(architectures, list) and any(str(a).endswith(DECODERS) for a in architectures)


def identity(folder: Path) -> str:
    """Of a checked folder of transformers; the same for two that hold the same weights for the same architecture."""
    return _identity(folder, fingerprint(folder))


@lru_cache(maxsize=256)
def _identity(folder: Path, _: str) -> str:
    config = {key: value for key, value in read_config(folder / "config.json").items() if key not in INCIDENTAL}
    lines = [line for file in weight_files(folder) for line in _samples(file)]
    said = [json.dumps(config, sort_keys=True), *sorted(lines)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]


def _samples(path: Path) -> list[str]:
    found = []
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(n_header))
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            file.seek(8 + n_header + begin + max(0, end - begin - SAMPLE_BYTES) // 2)
            sample = hashlib.sha256(file.read(min(SAMPLE_BYTES, end - begin))).hexdigest()
            found.append(f"{name} {entry['dtype']} {entry['shape']} {sample}")
    return found
