"""Errors of the models package. A message may be shown to a client: it states facts, and neither a path of this machine
nor the text of a library.

ModelsError
  UnknownModel      the catalogue has no model of that name; the message suggests the nearest names
    NotServed       there are files of that name, and the catalogue refused them
      StillRead     they are still being read: asked again in a moment, the model may be there
  BadConfig         models.toml has a key or value that is not known; the message suggests the nearest key. Raised at
                    the start or by an edit, never by a request
    SourceMissing   a path that models.toml names does not exist; that model is left out, the others are served
  BadModel          a checkpoint is broken or would run its own code; it is neither listed nor loaded
    Incomplete      files that the checkpoint names are not there (yet): half copied, an interrupted download
  FetchFailed       a source could not be downloaded completely and verified
  LoadFailed        a listed model could not be put on the device; `detail` is for the log
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ModelsError(Exception):
    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail  # for the log only: paths and the text of libraries


class UnknownModel(ModelsError):
    pass


class NotServed(UnknownModel):
    pass


class StillRead(NotServed):
    pass


class BadConfig(ModelsError):
    pass


class SourceMissing(BadConfig):
    pass


class BadModel(ModelsError):
    pass


class Incomplete(BadModel):
    def __init__(self, message: str, *, missing: tuple[str, ...], detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.missing = missing  # what is not there: "unet: weights", "vae"; no paths of this machine


class FetchFailed(ModelsError):
    pass


class LoadFailed(ModelsError):
    pass


def nearest(word: str, known: Iterable[str], count: int = 1) -> str:
    """Returns `" Did you mean 'x'?"`, ready to append to a sentence, or `""` when no known word is near."""
    matches = get_close_matches(word, list(known), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
