"""Edits of configs: of a pipeline, of its components, of noise schedulers and of language models."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.damage_copy import Copy, read_object

JUNK: tuple[Any, ...] = ("text", "", [], [1, "a", None], {}, {"a": {"b": [None]}}, None, True, -1, 0, 1.5, 10**12)
NUMBERS: tuple[Callable[[float], float], ...] = (
    lambda n: n * 2,
    lambda n: n + 1,
    lambda n: n - 1,
    lambda n: -n,
    lambda n: 0,
    lambda n: n / 2,
    lambda n: 10**12,
    lambda n: 1e308,
)
CLASSES = ("UNet2DConditionModel", "FluxTransformer2DModel", "AutoencoderKLWan", "EulerDiscreteScheduler",
           "StableDiffusionPipeline", "LlamaForCausalLM", "BertModel", "T5EncoderModel", "NoSuchModel", "os.system",
           "")  # fmt: skip


def _in_config(change: Callable[[Copy, dict[str, Any]], str | None]) -> Callable[[Copy], str | None]:
    """Makes an edit of a change to the object in one config."""

    def edit(copy: Copy) -> str | None:
        path = copy.choose.choice(copy.configs())
        config = read_object(path)
        what = change(copy, config)
        if what is None:
            return None
        copy.write_json(path, config)
        return f"{copy.told(path)}: {what}"

    edit.__name__ = change.__name__
    return edit


@_in_config
def number(copy: Copy, config: dict[str, Any]) -> str | None:
    keys = [key for key, value in config.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    if not keys:
        return None
    key = copy.choose.choice(keys)
    before = config[key]
    after = copy.choose.choice(NUMBERS)(before)
    config[key] = int(after) if isinstance(before, int) and float(after).is_integer() and after < 1e15 else after
    return None if config[key] == before else f"{key} is {config[key]}, was {before}"


@_in_config
def number_in_list(copy: Copy, config: dict[str, Any]) -> str | None:
    keys = [key for key, value in config.items() if isinstance(value, list) and value and type(value[0]) is int]
    if not keys:
        return None
    key = copy.choose.choice(keys)
    before = list(config[key])
    config[key] = copy.choose.choice(
        [before[:-1], [*before, before[-1]], before[::-1], [2 * n for n in before], before[0]]
    )
    return None if config[key] == before else f"{key} is {config[key]}, was {before}"


@_in_config
def flag(copy: Copy, config: dict[str, Any]) -> str | None:
    keys = [key for key, value in config.items() if isinstance(value, bool)]
    if not keys:
        return None
    key = copy.choose.choice(keys)
    config[key] = not config[key]
    return f"{key} is {config[key]}"


@_in_config
def key_dropped(copy: Copy, config: dict[str, Any]) -> str | None:
    key = copy.choose.choice(sorted(config))
    del config[key]
    return f"without {key}"


@_in_config
def key_renamed(copy: Copy, config: dict[str, Any]) -> str | None:
    key = copy.choose.choice(sorted(config))
    config[f"{key}_old"] = config.pop(key)
    return f"{key} is called {key}_old"


@_in_config
def other_type(copy: Copy, config: dict[str, Any]) -> str | None:
    key = copy.choose.choice(sorted(config))
    before, config[key] = config[key], copy.choose.choice(JUNK)
    return None if config[key] == before else f"{key} is {json.dumps(config[key])}, was {json.dumps(before)}"


@_in_config
def other_class(copy: Copy, config: dict[str, Any]) -> str | None:
    keys = [key for key in ("_class_name", "architectures", "model_type") if key in config]
    if not keys:
        return None
    key = copy.choose.choice(keys)
    name = (
        copy.choose.choice(CLASSES) if key != "model_type" else copy.choose.choice(["bert", "t5", "llama", "nothing"])
    )
    after = [name] if key == "architectures" else name
    if after == config[key]:
        return None
    config[key] = after
    return f"{key} is {after!r}"


@_in_config
def listed_otherwise(copy: Copy, config: dict[str, Any]) -> str | None:
    """Changes an entry of model_index.json."""
    names = [name for name, value in config.items() if isinstance(value, list) and value and isinstance(value[0], str)]
    if "_class_name" not in config or not names:
        return None
    name = copy.choose.choice(names)
    library, cls = config[name]
    other = "diffusers" if library == "transformers" else "transformers"
    pairs = ([None, None], [None, cls], [library, None], [library, cls + "Old"], [cls, library], [other, cls],
             ["torch", "load"], ["os", "system"], [library, copy.choose.choice(CLASSES)])  # fmt: skip
    options: list[Any] = [*pairs, None, [library], [library, cls, "more"], f"{library}.{cls}"]
    config[name] = copy.choose.choice(options)
    return f"{name} is {json.dumps(config[name])}"


@_in_config
def unknown_key(copy: Copy, config: dict[str, Any]) -> str | None:
    options: dict[str, Any] = {
        "_name_or_path": "/home/somebody/model",
        "torch_dtype": "float16",
        "dtype": "bfloat16",
        "an_unknown_key": {"a": [1, {"b": None}]},
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "auto_map": {"AutoModel": "modeling.Model"},
        "_commit_hash": None,
        "transformers_version": "4.9.9",
        "_diffusers_version": "99.0.0",
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "tie_word_embeddings": True,
    }
    key = copy.choose.choice(list(options))
    if key in config:
        return None
    config[key] = options[key]
    return f"with {key} = {json.dumps(options[key])}"


@_in_config
def deep(copy: Copy, config: dict[str, Any]) -> str | None:
    nested: Any = 1
    for _ in range(200):
        nested = [nested]
    config["nested"] = nested
    return "with lists 200 deep"


def config_bytes(copy: Copy) -> str | None:
    """Changes the bytes of a config and not its meaning, or cuts it."""
    path = copy.choose.choice(copy.configs())
    text = path.read_text()
    options: dict[str, bytes] = {
        "a byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "cut": text.encode()[: copy.choose.randrange(len(text))],
        "empty": b"",
        "zeros": bytes(len(text)),
        "a comma too many": text.rstrip().removesuffix("}").rstrip().encode() + b",\n}",
        "NaN": text.rstrip().removesuffix("}").rstrip().encode() + b',\n"eps": NaN}',
        "a comment": b"// made by hand\n" + text.encode(),
        "a list": b"[" + text.encode() + b"]",
        "a number": b"42",
        "not UTF-8": text.encode().replace(b'": "', b'": "\xff', 1),
        "a key twice": b'{"_class_name": "X", ' + text.encode().lstrip()[1:],
        "CRLF": text.replace("\n", "\r\n").encode(),
    }
    what = copy.choose.choice(list(options))
    copy.write(path, options[what])
    return f"{copy.told(path)}: {what}"


def config_deleted(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.configs())
    path.unlink()
    return f"{copy.told(path)}: deleted"


CONFIG = (number, number_in_list, flag, key_dropped, key_renamed, other_type, other_class, listed_otherwise,
          unknown_key, deep, config_bytes, config_deleted)  # fmt: skip
