"""CLIP's merge list, as OpenAI published it → tokenizers, and the base folders of models/configs that hold them. No torch."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

N_MERGES = 49152 - 256 - 2  # of OpenAI's list the first so many are used
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_TOKENS = 77


CONFIGS = Path(__file__).parents[1] / "configs"
PAD = {
    "tokenizer_2": "!"
}  # the second encoder of SDXL and SD 3 was trained with this padding; everybody else's is the end


def write_bases(merges_gz: Path, folder: Path) -> None:
    """The pipeline folders of models/configs, each with its tokenizers: what a single file lacks."""
    shutil.copytree(CONFIGS, folder)
    for index in sorted(folder.glob("*/model_index.json")):
        for name, value in json.loads(index.read_text()).items():
            if name.startswith("tokenizer") and value != [None, None]:
                write_clip_tokenizer(merges_gz, index.parent / name, pad=PAD.get(name, END))


def write_clip_tokenizer(merges_gz: Path, folder: Path, *, pad: str = END) -> None:
    lines = gzip.decompress(merges_gz.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : N_MERGES + 1]  # the first line is a version
    letters = _letters()
    words = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(merge.split()) for merge in merges),
        BEGIN,
        END,
    ]
    folder.mkdir()
    (folder / "vocab.json").write_text(
        json.dumps({word: index for index, word in enumerate(words)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    said = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": BEGIN,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, "model_max_length": CONTEXT_TOKENS}))


def _letters() -> list[str]:
    """A printable character for each byte: itself where it prints, else one from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
