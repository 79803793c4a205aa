"""Finds LoRA files by name in <data_dir>/loras and refuses formats that cannot be loaded. Any thread; no torch.

The folder is read at each request, so that a new file needs no restart. A name is that of a file without its ending, in
whichever sub-folder, as AUTOMATIC1111 has it; so it holds no separator and is never a path.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from models.errors import BadModel, UnknownModel, nearest
from models.files.leftovers import files_in, is_leftover
from models.files.safetensors_header import read_safetensors_header

MAX_DEPTH = 4  # of sub-folders
# The names of its tensors tell the format of a file. LoHa and LoKr become LoRAs in pipelines/diffusion/lora/lycoris.py.
SERVED = re.compile(r"lora[_.]|hada_w[12]_[ab]$|lokr_w[12](_[ab])?$")
LOHA_OR_LOKR = re.compile(r"\.(hada|lokr)_")
OTHER_FORMATS = (
    (re.compile(r"query_norm\.scale$|^lora_controlnet$"),
     "a Control LoRA, which replaces weights of the model for every request"),
    (re.compile(r"\.oft_|oft_blocks|oft_diag"), "an OFT or BOFT"),
    (re.compile(r"\.on_input$|ia3_"), "an (IA)³"),
    (re.compile(r"\.[ab][12]\.weight$"), "a GLoRA"),
    (re.compile(r"boft_|vera_|hra_|delora_|randlora_"), "of a method that diffusers does not load"),
    (re.compile(r"\.diff(_b)?$"), "a full difference of weights, not of low rank"),
    (re.compile(r"string_to_param|^emb_params$|^clip_[lg]$"),
     "a textual inversion: it belongs to load.embeddings of a model"),
)  # fmt: skip
# LoRAs of video models also hold differences of norms and biases, others the words that they were trained with. What
# cannot be used of them is named when the LoRA is loaded.
BESIDE_LORA = re.compile(r"difference|inversion")


class LoraFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        return sorted(name for name, paths in self._files().items() if len(paths) == 1)

    def find(self, name: str) -> Path:
        """Finds only what `names` lists, so a name is never a path.

        Raises `UnknownModel` for an unknown name, `BadModel` for a file in a format that is not served.
        """
        files = self._files()
        paths = files.get(unicodedata.normalize("NFC", name), [])
        if not paths:
            raise UnknownModel(f"There is no LoRA of that name.{nearest(name, self.names(), 3)}")
        if len(paths) > 1:
            raise BadModel(f"{name} is the name of {len(paths)} files in sub-folders of loras: rename all but one")
        if reason := refusal(read_safetensors_header(paths[0])):
            raise BadModel(f"{name} is {reason}")
        return paths[0]

    def _files(self) -> dict[str, list[Path]]:
        """Name → its files. Composed and decomposed accents are the same name. A file at the top hides those below."""
        found: dict[str, list[Path]] = {}
        for folder in self._folders():
            for path in files_in(folder, "*.safetensors"):
                name = unicodedata.normalize("NFC", path.stem)
                if not _is_text(name) or not path.is_file():
                    continue
                if folder == self._folder or not any(other.parent == self._folder for other in found.get(name, ())):
                    found.setdefault(name, []).append(path)
        return found

    def _folders(self) -> Iterator[Path]:
        """The folder and those below it, through links as well, each once."""
        seen: set[str] = set()
        for root, children, _ in os.walk(self._folder, followlinks=True):
            real, depth = os.path.realpath(root), len(Path(root).relative_to(self._folder).parts)
            if real in seen or depth > MAX_DEPTH:
                children.clear()
                continue
            seen.add(real)
            children[:] = sorted(child for child in children if not is_leftover(child))
            yield Path(root)


def _is_text(name: str) -> bool:
    """Whether a reply can hold it: a name on disk may be bytes that are not UTF-8, or hold control characters."""
    return "\\" not in name and not any(unicodedata.category(each) in ("Cc", "Cs") for each in name)


def held_bytes(path: Path, float_bytes: int) -> int:
    """Estimates the memory that a LoRA needs besides the weights, at the model's precision."""
    return sum(tensor.elements for tensor in read_safetensors_header(path).values()) * float_bytes


def refusal(tensors: Iterable[str]) -> str | None:
    """Returns what a file with these tensor names is, None when it is a LoRA, LoHa or LoKr that can be served."""
    names = list(tensors)
    products = any(LOHA_OR_LOKR.search(name) for name in names)
    if products and any(name.endswith("dora_scale") for name in names):
        return "a LoHa or LoKr with DoRA's magnitudes; LoRA, LoHa and LoKr without are served"
    is_lora = any("lora" in name for name in names)
    for pattern, format_name in OTHER_FORMATS:
        if any(pattern.search(name) for name in names) and not (is_lora and BESIDE_LORA.search(format_name)):
            return f"{format_name}; LoRA, LoHa and LoKr are served"
    if not any(SERVED.search(name) for name in names):
        return "no LoRA: it holds no weights of one"
    return None
