"""A copy of a sound checkpoint that one edit changes. Its files are links to the sound ones until they are written."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

CHECKPOINT = "checkpoint"  # the folder in the data directory of a case that holds everything


@dataclass(frozen=True, slots=True)
class Copy:
    """`choose` draws everything that an edit leaves open, so that the seed of a case repeats it."""

    root: Path
    choose: Random

    @classmethod
    def of(cls, sound: Path, root: Path, choose: Random) -> Copy:
        for path in sorted(sound.rglob("*")):
            target = root / path.relative_to(sound)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
        return cls(root, choose)

    def write(self, path: Path, content: bytes | str) -> None:
        path.unlink(missing_ok=True)  # the file may be a link to the sound one
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def write_json(self, path: Path, value: object) -> None:
        self.write(path, json.dumps(value, indent=2))

    def told(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def weights(self) -> list[Path]:
        return sorted(self.root.rglob("*.safetensors"))

    def indexes(self) -> list[Path]:
        return sorted(self.root.rglob("*.safetensors.index.json"))

    def configs(self) -> list[Path]:
        """The configs of the pipeline, of its components and of a language model; not those of tokenizers."""
        named = ("model_index.json", "config.json", "scheduler_config.json", "generation_config.json")
        return [path for path in sorted(self.root.rglob("*.json")) if path.name in named]

    def tokenizer_files(self) -> list[Path]:
        named = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")
        return [path for path in sorted(self.root.rglob("*")) if path.name in named]


# Changes the copy and returns what was done, or None where the checkpoint has nothing to change in this way.
Edit: TypeAlias = Callable[[Copy], str | None]


def read_object(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def split_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the header and the data of a safetensors file."""
    (n_bytes,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + n_bytes]), content[8 + n_bytes :]


def join_safetensors(header: Mapping[str, Any] | str, data: bytes) -> bytes:
    """Writes the header as it is, right or wrong."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data
