"""Captions for drawings, with synonyms, filler words and missing attributes. Some wordings are kept for the benchmark.

A caption names only some attributes of its drawing. `caption` also returns which, so that the text encoder can learn to
recognize exactly those.
"""

import re
import zlib

import numpy as np

from . import words
from .attributes import Drawing

SCENE_TEMPLATES = (
    "{kind} {time}",
    "{time} {kind}",
    "{kind}, {time}",
    "{noun} {kind}",
    "{noun} over {kind}",
    "{kind} {noun}",
    "a picture of {kind} {time}",
    "a {adjective} view of {kind} {time}",
    "a {adjective} {noun}, {kind}",
    "{adjective} {kind} {time}",
    "an image showing {kind} {time}",
    "a video of {kind} {time}",
    "{kind} with a {adjective} sky {time}",
)
HELD_OUT_SCENE_TEMPLATES = (
    "a postcard of {kind} {time}",
    "paint me {kind} {time} please",
    "{kind} seen {time} by a traveller",
    "a {adjective} scene: {kind} {time}",
    "i want to see {kind} {time}",
)
SHAPE_TEMPLATES = (
    "a {colour} {shape} {motion} {place} {background}",
    "a {colour} {shape} {place} {motion} {background}",
    "{colour} {shape} {background} {motion} {place}",
    "a {colour} {shape} {background} {place} {motion}",
    "{place} a {colour} {shape} {motion} {background}",
    "one {colour} {shape} {motion}, {place}, {background}",
    "the {colour} {shape} is {motion} {place} {background}",
    "{background} a {colour} {shape} {place} {motion}",
    "a picture of a {colour} {shape} {place} {background} {motion}",
    "a {adjective} {colour} {shape} {motion} {place} {background}",
    "a {shape} that is {colour} {motion} {place} {background}",
)
BACKGROUND_TEMPLATES = (
    "on a {} background",
    "on {}",
    "with a {} background",
    "against a {} background",
    "in front of a {} background",
    "over a {} background",
    "{} background",
    "on a plain {} background",
    "on a {} backdrop",
)
DROP = 0.12  # chance that an attribute is left out of the caption


def is_held_out_pair(kind_phrase: str, time_phrase: str) -> bool:
    """Returns whether the pair is one of the eighth of scene and time wordings that training never combines."""
    return zlib.crc32(f"{kind_phrase}|{time_phrase}".encode()) % 8 == 0


def caption(drawing: Drawing, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """Returns a training caption and the attributes that it names (name → value)."""
    text, named = _scene(drawing, rng) if drawing.type == "scene" else _shape(drawing, rng)
    return _decorate(text, rng), named


def filler(rng: np.random.Generator) -> str:
    """Returns a caption that names no attribute, often an empty one."""
    if rng.random() < 0.3:
        return ""
    return " ".join(_unknown(rng) for _ in range(rng.integers(1, 9)))


def held_out_scene(drawing: Drawing, rng: np.random.Generator) -> str:
    """Returns a benchmark prompt for a scene: a sentence and a pair of wordings that training never used."""
    while True:
        kind_phrase, time_phrase = (
            _pick(rng, words.KIND_WORDS[drawing.kind]),
            _pick(rng, words.TIME_WORDS[drawing.time]),
        )
        if is_held_out_pair(kind_phrase, time_phrase):
            template = str(rng.choice(HELD_OUT_SCENE_TEMPLATES))
            return template.format(kind=kind_phrase, time=time_phrase, adjective=_pick(rng, words.ADJECTIVES))


def plain_shape(drawing: Drawing) -> str:
    """Returns a benchmark prompt for a shape, in the plainest words."""
    text = f"a {drawing.colour} {drawing.shape}"
    if drawing.motion:
        text += " growing" if drawing.motion == "grow" else f" moving {drawing.motion}"
    else:
        text += f" {words.split(words.PLACE_WORDS[drawing.place])[0]}"
    return f"{text} on a {drawing.background} background"


def _pick(rng: np.random.Generator, table: str) -> str:
    phrases = words.split(table)
    return phrases[rng.integers(len(phrases))]


def _scene(drawing: Drawing, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    named = {"type": "scene", "kind": drawing.kind, "time": drawing.time}
    if rng.random() < DROP:  # name only one of the two
        if rng.random() < 0.5:
            del named["time"]
            return _pick(rng, words.KIND_WORDS[drawing.kind]), named
        del named["kind"]
        return _pick(rng, words.TIME_WORDS[drawing.time] + "|" + words.TIME_NOUNS[drawing.time]), named
    while True:
        kind_phrase, time_phrase = (
            _pick(rng, words.KIND_WORDS[drawing.kind]),
            _pick(rng, words.TIME_WORDS[drawing.time]),
        )
        if not is_held_out_pair(kind_phrase, time_phrase):
            break
    text = str(rng.choice(SCENE_TEMPLATES)).format(
        kind=kind_phrase,
        time=time_phrase,
        noun=_pick(rng, words.TIME_NOUNS[drawing.time]),
        adjective=_pick(rng, words.ADJECTIVES),
    )
    return text, named


def _shape(drawing: Drawing, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    named = {"type": "shape"}
    for name in ("shape", "colour", "background", "place", "motion"):
        value = getattr(drawing, name)
        rare = name == "place" and drawing.motion  # the place matters less for a moving shape
        if value and rng.random() > (0.7 if rare else DROP):
            named[name] = value
    fields = dict.fromkeys(("shape", "colour", "background", "place", "motion"), "")
    fields["shape"] = _pick(rng, words.SHAPE_WORDS[named["shape"]]) if "shape" in named else "shape"
    fields["colour"] = _pick(rng, words.COLOUR_WORDS[named["colour"]]) if "colour" in named else ""
    if "background" in named:
        fields["background"] = str(rng.choice(BACKGROUND_TEMPLATES)).format(
            _pick(rng, words.COLOUR_WORDS[named["background"]])
        )
    fields["place"] = _pick(rng, words.PLACE_WORDS[named["place"]]) if "place" in named else ""
    if "motion" in named:
        fields["motion"] = _pick(rng, words.MOTION_WORDS[named["motion"]])
    elif not drawing.motion and rng.random() < 0.05:  # a caption of a still image may name a motion
        named["motion"] = str(rng.choice(list(words.MOTION_WORDS)))
        fields["motion"] = _pick(rng, words.MOTION_WORDS[named["motion"]])
    text = str(rng.choice(SHAPE_TEMPLATES)).format(adjective=_pick(rng, words.ADJECTIVES), **fields)
    text = " ".join(text.split()).replace(" ,", "")
    return re.sub(r"\ba (?=[aeo])", "an ", text) if rng.random() < 0.8 else text, named


def _unknown(rng: np.random.Generator) -> str:
    if rng.random() < 0.75:
        return str(rng.choice(words.FILLER))
    return "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 9)))


def _decorate(text: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.25:
        text = f"{text}, {_pick(rng, words.SUFFIXES)}"
    if rng.random() < 0.15:  # teaches the text encoder to ignore unknown words
        parts = text.split(" ")
        for _ in range(rng.integers(1, 4)):
            parts.insert(int(rng.integers(len(parts) + 1)), _unknown(rng))
        text = " ".join(parts)
    if rng.random() < 0.2:
        text = text[:1].upper() + text[1:] + "."
    return text
