"""Writes CLIP tokenizers, made from OpenAI's merge list, into the base folders of single files.

Any thread; no torch.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

N_MERGES = 49152 - 256 - 2  # CLIP uses only the first merges of the list
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_TOKENS = 77

CONFIGS = Path(__file__).parents[1] / "configs"
PADDING = {"tokenizer_2": "!"}  # the second encoder of SDXL and SD 3 was trained with it; all others pad with END


def write_base_folders(merges_gz: Path, folder: Path) -> None:
    """Writes the pipeline folders of models/configs with their tokenizers: the bases of single files."""
    shutil.copytree(CONFIGS, folder)
    for index in sorted(folder.glob("*/model_index.json")):
        for name, value in json.loads(index.read_text()).items():
            if name.startswith("tokenizer") and value != [None, None]:
                _write_tokenizer(merges_gz, index.parent / name, padding=PADDING.get(name, END))


def _write_tokenizer(merges_gz: Path, folder: Path, *, padding: str) -> None:
    lines = gzip.decompress(merges_gz.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : N_MERGES + 1]  # the first line is the version
    characters = _byte_characters()
    words = [
        *characters,
        *(f"{character}</w>" for character in characters),
        *("".join(merge.split()) for merge in merges),
        BEGIN,
        END,
    ]
    folder.mkdir()
    (folder / "vocab.json").write_text(
        json.dumps({word: index for index, word in enumerate(words)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": BEGIN,
        "eos_token": END,
        "unk_token": END,
        "pad_token": padding,
        "model_max_length": CONTEXT_TOKENS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _byte_characters() -> list[str]:
    """Returns one printable character per byte: the byte's own where it prints, else one from code point 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
