"""Measures how long it takes to list checkpoints: read by this process, by children, and remembered by the next start.

    python benchmarks/listing.py --checkpoints 50 --json listing.json

Each reading starts in a process of its own, as a server does, in turn over the same folders.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from models.catalogue import Catalogue
from models.reading.isolated_reader import IsolatedReader
from tests.support.checkpoints import chat_folder, stable_diffusion_folder
from tests.support.lanes.tiny_chat import tiny_tokenizer

TURNS = 5
TEMPLATES = 5  # different ones, each of which is tried
TEMPLATE = (
    "{{# number {} #}}{{% for m in messages %}}{{{{ m.role + ': ' + m.content + '\\n' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ 'assistant: ' }}}}{{% endif %}}"
)


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        print(read(Path(sys.argv[2]), sys.argv[3]))
        return
    options = common.arguments(__doc__, ("--checkpoints", {"type": int, "default": 50}))
    report = common.Report(f"listing of {options.checkpoints} checkpoints")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        write_checkpoints(data_dir / "models", options.checkpoints)
        here, isolated, remembered = [], [], []
        for _ in range(TURNS):
            here.append(in_a_process(data_dir, "here"))
            (data_dir / "read.json").unlink(missing_ok=True)
            isolated.append(in_a_process(data_dir, "children"))
            remembered.append(in_a_process(data_dir, "children"))
    report.add("read by this process", common.median(here) * 1e3, "ms")
    report.add("read by children, their start included", common.median(isolated) * 1e3, "ms")
    report.add("children, of this process", common.median(isolated) / common.median(here), "times", most=1.5)
    report.add("the next start", common.median(remembered) * 1e3, "ms")
    report.save(options.json)


def write_checkpoints(root: Path, n: int) -> None:
    """Half of them pipelines, half language models with tokenizers that can be opened."""
    for i in range(n):
        if i % 2:
            stable_diffusion_folder(root / f"pictures-{i}")
        else:
            folder = chat_folder(root / f"chat-{i}", template=TEMPLATE.format(i % TEMPLATES))
            tiny_tokenizer()._tokenizer.save(str(folder / "tokenizer.json"))


def in_a_process(data_dir: Path, how: str) -> float:
    command = [sys.executable, __file__, "--read", str(data_dir), how]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def read(data_dir: Path, how: str) -> float:
    """Returns the seconds of the first listing."""
    began = time.perf_counter()
    reader = None if how == "here" else IsolatedReader(data_dir / "cache", "float32", data_dir / "read.json")
    found = Catalogue.open(data_dir=data_dir, cache_dir=data_dir / "cache", builtin=data_dir / "none", reader=reader)
    seconds = time.perf_counter() - began
    assert found.is_complete, "a listing waits for all models, unless it is told not to"
    assert not found.refused, found.refused
    if reader is not None:
        reader.close()
    return seconds


if __name__ == "__main__":
    main()
