"""The errors of this package. Their message may be shown to a client: facts, no path of this machine, no library's text.

ModelsError
  UnknownModel    no such name in the catalogue; names the nearest ones
  BadConfig       models.toml says something we do not know; names the nearest key. Ends the start, never a request
    SourceMissing a path that models.toml names is not there; the model is left out, the others are served
  BadModel        a checkpoint that is broken, or that would run code of its own; it is not listed and not loaded
  FetchFailed     a source could not be brought here whole and verified
  LoadFailed      a listed model could not be put on the device; `detail` is for the log
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ModelsError(Exception):
    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail  # for the log: paths and the library's own text


class UnknownModel(ModelsError):
    pass


class BadConfig(ModelsError):
    pass


class SourceMissing(BadConfig):
    pass


class BadModel(ModelsError):
    pass


class FetchFailed(ModelsError):
    pass


class LoadFailed(ModelsError):
    pass


def nearest(word: str, known: Iterable[str], count: int = 1) -> str:
    """`" Did you mean 'x'?"`, or nothing when no known word is near. Starts with a space, to be put behind a sentence."""
    matches = get_close_matches(word, list(known), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
