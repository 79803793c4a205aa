"""What became of the reading of one thing that may be a model. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.errors import BadModel, Incomplete, ModelsError
from models.spec import ModelSpec, ModelType

MAX_CHARS = 500  # of a reason


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something that looks like a model cannot be served."""

    reason: str
    state: Literal["failed", "incomplete"] = "failed"
    missing: tuple[str, ...] = ()
    detail: str = ""  # for the log
    type: ModelType | None = None

    @staticmethod
    def of(error: ModelsError, type_: ModelType | None = None) -> Refusal:
        missing = error.missing if isinstance(error, Incomplete) else ()
        state: Literal["failed", "incomplete"] = "incomplete" if isinstance(error, Incomplete) else "failed"
        told = tuple(readable(part) for part in missing)
        return Refusal(readable(error.message), state, told, readable(error.detail), type_)


@dataclass(frozen=True, slots=True)
class Outcome:
    """spec and refusal together: it lacks a chat template alone, which an entry of models.toml may give it."""

    spec: ModelSpec | None = None
    refusal: Refusal | None = None
    is_file: bool = False

    @property
    def is_model(self) -> bool:
        """False: nothing that looks like a model."""
        return self.spec is not None or self.refusal is not None


def readable(text: str) -> str:
    """Returns the text as a part of one line: names of files may hold line ends, controls and bytes of no character."""
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: MAX_CHARS + 1])
    return line if len(line) <= MAX_CHARS else line[: MAX_CHARS - 1] + "…"


def as_bad_model(error: Exception) -> ModelsError:
    """Returns what a user is told of any failure to read files."""
    detail = f"{type(error).__name__}: {error}"
    match error:
        case ModelsError():
            return error
        case UnicodeError():
            return BadModel("has a name or text that is not UTF-8", detail=detail)
        case OSError():
            return BadModel(f"its files cannot be read ({error.strerror})", detail=detail)
        case MemoryError():
            return BadModel("its files need more memory to be read than is allowed", detail=detail)
        case RecursionError():
            return BadModel("its files are nested too deeply", detail=detail)
    return BadModel(f"its files hold values that cannot be right ({type(error).__name__})", detail=detail)
