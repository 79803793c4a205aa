"""Opens the tokenizers of a checkpoint once in a child, and lets each read a line. No torch.

Their libraries are compiled: a damaged vocabulary may end the process or take minutes. What they merely refuse is told
when the model is loaded, by the library that loads it. Outside of a child nothing is tried.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.errors import BadModel
from models.files.leftovers import files_in
from models.isolation.panics import is_panic
from models.isolation.serving import doing, is_limited

FAST = "tokenizer.json"
MAX_BYTES = 256 << 20  # of a vocabulary; the largest in use has 33 MiB
LINE = "Hello, wörld! 你好 🙂 12345   \n\t<s> [INST] xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"


def try_tokenizers(path: Path) -> None:
    """Raises `BadModel` for a tokenizer that panics; one that ends the process or hangs ends the child."""
    if not path.is_dir():
        return
    for folder in (path, *(each for each in files_in(path, "*tokenizer*") if each.is_dir())):
        for file in (folder / FAST, *files_in(folder, "*.model")):
            if not file.is_file():
                continue
            if file.stat().st_size > MAX_BYTES:
                raise BadModel(f"{file.name} is too large to be a vocabulary", detail=str(file))
            if is_limited():
                _try(file)


def _try(file: Path) -> None:
    doing(f"its {file.name}")
    try:
        read = _opened(file)
        if read is not None:
            read.encode(LINE)
    except Exception:  # noqa: BLE001  # see the module's docstring
        return
    except BaseException as error:
        if not is_panic(error):
            raise
        raise BadModel(f"the library of tokenizers fails on its {file.name}", detail=str(error)[:500]) from None


def _opened(file: Path) -> Any:
    if file.name == FAST:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(file))
    if find_spec("sentencepiece") is None or (file.parent / FAST).is_file():  # which is read instead
        return None
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(file))
