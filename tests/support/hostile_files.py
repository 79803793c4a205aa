"""Makes things that may lie in a models folder and harm who reads them: by kind, each varied by a seed. No torch."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.checkpoints import (
    ONE_F16,
    chat_folder,
    gguf_bytes,
    gguf_string,
    gguf_tensor,
    stable_diffusion_folder,
    write_json,
)

Make = Callable[[random.Random, Path], object]  # writes below a folder, under a name that begins with the given one

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json")


def _header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def _file(content: Callable[[random.Random], bytes], suffix: str = ".safetensors") -> Make:
    return lambda rng, path: path.with_name(path.name + suffix).write_bytes(content(rng))


def _shape(rng: random.Random) -> bytes:
    n = rng.choice((9, 100, 50_000))
    return _header(
        b'{"a":{"dtype":"F32","shape":[' + b",".join([b"9223372036854775807"] * n) + b'],"data_offsets":[0,4]}}'
    )


def _many_tensors(rng: random.Random) -> bytes:
    n = rng.choice((1_000, 201_000))
    entries = b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(n))
    return _header(b"{" + entries + b"}")


def _nested(rng: random.Random) -> bytes:
    depth = rng.choice((200, 5_000, 200_000))
    return b'{"a":' * depth + b"1" + b"}" * depth


def _number(rng: random.Random) -> str:
    return rng.choice(("9" * 5000, "1e999", "NaN", "-Infinity", "-1", "0", str(1 << 63), "9" * 39, "1e-400", "true"))


def _config(rng: random.Random, path: Path) -> None:
    """One number of a sound checkpoint becomes one that no size can be."""
    if rng.random() < 0.5:
        folder = chat_folder(path)
        key = rng.choice(("max_position_embeddings", "num_hidden_layers", "hidden_size", "vocab_size", "text_config"))
        text = json.loads((folder / "config.json").read_text()) | {key: "@"}
        (folder / "config.json").write_text(json.dumps(text).replace('"@"', _number(rng)))
        return
    folder = stable_diffusion_folder(path)
    part = rng.choice(("vae", "unet", "scheduler"))
    key = rng.choice(("sample_size", "in_channels", "patch_size", "scale_factor_spatial", "latent_channels"))
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    config = json.loads((folder / part / name).read_text()) | {key: "@"}
    (folder / part / name).write_text(json.dumps(config).replace('"@"', _number(rng)))


def _stages(rng: random.Random, path: Path) -> None:
    folder = stable_diffusion_folder(path)
    write_json(folder / "vae" / "config.json", {"block_out_channels": [1] * rng.choice((17, 2_000, 100_000))})


def _flipped(rng: random.Random, path: Path) -> None:
    """A sound checkpoint with some bytes of one file changed."""
    folder = rng.choice((chat_folder, stable_diffusion_folder))(path)
    file = rng.choice(sorted(each for each in folder.rglob("*") if each.is_file()))
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 3, 30))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    file.write_bytes(content[: rng.choice((len(content), len(content) // 2))])


def _bytes_as(name: str, sizes: tuple[int, ...] = (0, 1, 100, 100_000)) -> Make:
    def make(rng: random.Random, path: Path) -> None:
        (chat_folder(path) / name).write_bytes(rng.randbytes(rng.choice(sizes)))

    return make


def _tokenizer(rng: random.Random, path: Path) -> None:
    """Almost a tokenizer: the library takes its parts, and not what they say of each other."""
    model = rng.choice((
        {"type": "BPE", "vocab": {"a": 1 << 31, "b": 0}, "merges": [["a", "b"]]},
        {"type": "Unigram", "vocab": [["a", 1e308]] * 3, "unk_id": 99},
        {"type": "WordPiece", "vocab": {}, "unk_token": "x", "max_input_chars_per_word": -1},
        {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"},
    ))  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": "((a|a)+)+(?=c)\\1"}, "behavior": "Isolated", "invert": False}
    write_json(
        chat_folder(path) / "tokenizer.json",
        {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": split, "model": model,
         "post_processor": None, "decoder": None, "truncation": None, "padding": None},
    )  # fmt: skip


def _template(*texts: str) -> Make:
    def make(rng: random.Random, path: Path) -> None:
        (chat_folder(path) / "chat_template.jinja").write_text(rng.choice(texts))

    return make


def _instead_of_config(put: Callable[[Path], object]) -> Make:
    """A sound checkpoint, one of whose files is something else."""

    def make(rng: random.Random, path: Path) -> None:
        folder = chat_folder(path)
        file = folder / rng.choice(("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"))
        file.unlink()
        put(file)

    return make


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is at most 107 bytes long
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def _sparse(rng: random.Random, path: Path) -> None:
    file = path.with_name(f"{path.name}.safetensors")
    header = _header(b'{"a":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}')
    file.write_bytes(header)
    os.truncate(file, len(header) + rng.choice((1 << 40, (1 << 40) - 1)))


def _sparse_config(rng: random.Random, path: Path) -> None:
    os.truncate(chat_folder(path) / rng.choice((*CONFIGS[:1], "tokenizer.json", "chat_template.jinja")), 1 << 40)


def _odd_name(rng: random.Random, path: Path) -> None:
    name = os.fsencode(path.name) + rng.choice((b"-\xe9\xff", b"\xed\xa0\x80", b"\n\x1b[31m", b"-" * 200, b" \xc2\xa0"))
    first = rng.choice((b"", b"-", b"--help="))
    file = os.path.join(os.fsencode(path.parent), first + name)
    if rng.random() < 0.5:
        chat_folder(Path(os.fsdecode(file)))
    else:
        Path(os.fsdecode(file + b".safetensors")).write_bytes(ONE_F16)


def _odd_name_inside(rng: random.Random, path: Path) -> None:
    Path(os.fsdecode(os.fsencode(chat_folder(path)) + b"/lisez-moi-\xe9.txt")).write_text("")


def _links(rng: random.Random, path: Path) -> None:
    folder = chat_folder(path)
    for i in range(8):
        (folder / f"up{i}").symlink_to(folder, target_is_directory=True)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(rng.choice(("model.safetensors", "/etc/passwd", "/dev/zero", "/nowhere")))


def _huge_folder(rng: random.Random, path: Path) -> None:
    folder = chat_folder(path)
    for i in range(rng.choice((*[100] * 9, 21_000))):
        (folder / f"{i}.txt").touch()


def _deep_folder(rng: random.Random, path: Path) -> None:
    chat_folder(path).joinpath(*["d"] * rng.choice((50, 200))).mkdir(parents=True)


def _index(rng: random.Random, path: Path) -> None:
    listed: Any = rng.choice((
        {"../x": ["diffusers", "UNet2DConditionModel"]}, {"unet": ["os", "system"]}, {"vae": 3}, {"unet": [None, None]},
        {"_class_name": ["a", "b"]}, {"_class_name": "Flux" * 50_000}, {"vae": ["diffusers", "\ud800"]},
    ))  # fmt: skip
    folder = stable_diffusion_folder(path)
    write_json(folder / "model_index.json", json.loads((folder / "model_index.json").read_text()) | listed)


GGUF: dict[str, Callable[[random.Random], bytes]] = {
    "GGUF array": lambda rng: gguf_bytes(
        entries={"a": struct.pack("<IIQ", 9, rng.randrange(13), 1 << rng.choice((20, 40)))}
    ),
    "GGUF tensors": lambda rng: gguf_bytes(n_tensors=1 << rng.choice((17, 30, 60))),
    "GGUF shape": lambda rng: gguf_bytes(tensors=[gguf_tensor(shape=(1 << rng.choice((3, 30, 62)), 8))]),
    "GGUF cut": lambda rng: gguf_bytes(tensors=[gguf_tensor()])[: rng.randrange(80)],
    "GGUF template": lambda rng: gguf_bytes(
        entries={
            "general.architecture": struct.pack("<I", 8) + gguf_string("llama"),
            "tokenizer.chat_template": struct.pack("<I", 8) + gguf_string("{{ 'a' * 900000000 }}"),
        },
        tensors=[gguf_tensor()],
    ),
}
QUICK: dict[str, Make] = {
    "shape": _file(_shape),
    "many tensors": _file(_many_tensors),
    "nested header": _file(lambda rng: _header(_nested(rng))),
    "twice": _file(lambda rng: _header(b'{"a":{},"a":{}}')),
    "numbers": _file(lambda rng: _header(
        b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,%s]}}' % (_number(rng).encode(), _number(rng).encode())
    )),
    "no header": _file(lambda rng: rng.randbytes(rng.choice((0, 7, 8, 9, 5_000)))),
    "long header": _file(lambda rng: struct.pack("<Q", 1 << rng.choice((20, 40, 63))) + b"{" * 64),
    "metadata": _file(lambda rng: _header(b'{"__metadata__":{"a":' + rng.choice((b"1", b"{}", b'"\\ud800"')) + b"}}")),
    **{kind: _file(content, ".gguf") for kind, content in GGUF.items()},
    "config": _config,
    "stages": _stages,
    "flipped": _flipped,
    "nested config": lambda rng, path: (chat_folder(path) / "config.json").write_bytes(_nested(rng)),
    **{f"garbage as {name}": _bytes_as(name) for name in (*CONFIGS, "tokenizer.json", "spiece.model", "modules.json")},
    "tokenizer": _tokenizer,
    "template that grows": _template("{{ 'a' * 900000000 }}", "{{ ('%' ~ 999999999 ~ 'd') % 1 }}"),
    "template that recurses": _template(
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ " + "(" * 9000 + ")" * 9000 + " }}"
    ),
    "template that is none": _template("{% for %}", "{{ x.__class__.__mro__ }}", "\x00", "{{ 1/0 }}"),
    "FIFO": _instead_of_config(os.mkfifo),
    "FIFO as a model": lambda rng, path: os.mkfifo(path.with_name(f"{path.name}.safetensors")),
    "socket": _instead_of_config(_socket),
    "folder as a file": _instead_of_config(Path.mkdir),
    "device": _instead_of_config(lambda file: file.symlink_to("/dev/zero")),
    "outside": _instead_of_config(lambda file: file.symlink_to("/etc/passwd")),
    "loop": _instead_of_config(lambda file: file.symlink_to(file.name)),
    "links": _links,
    "sparse": _sparse,
    "sparse config": _sparse_config,
    "odd name": _odd_name,
    "odd name inside": _odd_name_inside,
    "huge folder": _huge_folder,
    "deep folder": _deep_folder,
    "index": _index,
    "unreadable": lambda rng, path: (chat_folder(path) / rng.choice(("", *CONFIGS[:1]))).chmod(0),
}  # fmt: skip
SLOW: dict[str, Make] = {
    "template that loops": _template(
        LOOP, "{% set n = namespace(s='a') %}" + LOOP.replace("{% endfor %}", "{% set n.s = b %}{% endfor %}", 1)
    ),
}
KINDS = QUICK | SLOW
SLOW_SHARE = 0.004  # each takes its reader the whole time that it has


def make_hostile(root: Path, number: int, seed: int) -> str:
    """Writes the thing of that number below `root` and returns its kind."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choice(sorted(SLOW if rng.random() < SLOW_SHARE else QUICK))
    KINDS[kind](rng, root / f"h{number}")
    return kind
