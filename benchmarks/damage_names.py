"""Edits of shard indexes, and of which weight files there are under which names."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.damage_copy import Copy, read_object


def _index(copy: Copy) -> tuple[Any, dict[str, Any], dict[str, str]] | None:
    """Returns the path of an index, its content and its weight map."""
    indexes = copy.indexes()
    if not indexes:
        return None
    path = copy.choose.choice(indexes)
    content = read_object(path)
    return path, content, content["weight_map"]


def tensor_not_in_index(copy: Copy) -> str | None:
    if (found := _index(copy)) is None:
        return None
    path, content, weight_map = found
    name = copy.choose.choice(sorted(weight_map))
    del weight_map[name]
    copy.write_json(path, content)
    return f"{copy.told(path)}: without {name}"


def tensor_in_other_shard(copy: Copy) -> str | None:
    if (found := _index(copy)) is None:
        return None
    path, content, weight_map = found
    name = copy.choose.choice(sorted(weight_map))
    others = sorted(set(weight_map.values()) - {weight_map[name]})
    others += ["absent.safetensors", "../unet/a.safetensors", "", "model.bin"]
    weight_map[name] = copy.choose.choice(others)
    copy.write_json(path, content)
    return f"{copy.told(path)}: {name} in {weight_map[name]!r}"


def unknown_tensor_in_index(copy: Copy) -> str | None:
    if (found := _index(copy)) is None:
        return None
    path, content, weight_map = found
    weight_map["an.unknown.weight"] = copy.choose.choice(sorted(weight_map.values()))
    copy.write_json(path, content)
    return f"{copy.told(path)}: with an.unknown.weight"


def whole_index(copy: Copy) -> str | None:
    """Puts another JSON value, or none, in the place of the index."""
    if (found := _index(copy)) is None:
        return None
    path, content, weight_map = found
    options: dict[str, Any] = {
        "an empty map": {"metadata": {}, "weight_map": {}},
        "no map": {"metadata": content.get("metadata")},
        "no metadata": {"weight_map": weight_map},
        "numbers for shards": {"metadata": {}, "weight_map": dict.fromkeys(weight_map, 1)},
        "a list": list(weight_map),
        "null for the map": {"metadata": {}, "weight_map": None},
        "another total": {"metadata": {"total_size": 1}, "weight_map": weight_map},
    }
    what = copy.choose.choice(list(options))
    copy.write_json(path, options[what])
    return f"{copy.told(path)}: {what}"


def index_cut(copy: Copy) -> str | None:
    if (found := _index(copy)) is None:
        return None
    path = found[0]
    content = path.read_bytes()
    copy.write(path, content[: copy.choose.randrange(len(content))])
    return f"{copy.told(path)}: cut"


def index_deleted(copy: Copy) -> str | None:
    if (found := _index(copy)) is None:
        return None
    found[0].unlink()
    return f"{copy.told(found[0])}: deleted"


def weights_deleted(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.weights())
    path.unlink()
    return f"{copy.told(path)}: deleted"


def weights_renamed(copy: Copy) -> str | None:
    path = copy.choose.choice(copy.weights())
    stem = path.name.removesuffix(".safetensors")
    names = (f"{stem}.fp16.safetensors", f"{stem}.bf16.safetensors", f"{stem} (1).safetensors", f"{stem}.safetensor",
             "model.safetensors", "diffusion_pytorch_model.safetensors", f"{stem}.safetensors.part")  # fmt: skip
    name = copy.choose.choice([name for name in names if not (path.parent / name).exists()])
    path.rename(path.parent / name)
    return f"{copy.told(path)}: called {name}"


def stale_index(copy: Copy) -> str | None:
    """Puts an index of shards that are not there beside a whole file."""
    whole = [path for path in copy.weights() if not path.with_name(path.name + ".index.json").exists()
             and "-of-" not in path.name and (path.parent / "config.json").exists()]  # fmt: skip
    if not whole:
        return None
    path = copy.choose.choice(whole)
    stem = path.name.removesuffix(".safetensors")
    shard = copy.choose.choice([f"{stem}-00001-of-00002.safetensors", path.name])
    index = {"metadata": {"total_size": 4}, "weight_map": {"a.weight": shard}}
    copy.write_json(path.with_name(path.name + ".index.json"), index)
    return f"{copy.told(path)}: with an index of {shard}"


def whole_file_beside_shards(copy: Copy) -> str | None:
    """Puts the first shard beside the index, under the name of a whole file."""
    if (found := _index(copy)) is None:
        return None
    path, _, weight_map = found
    whole = path.with_name(path.name.removesuffix(".index.json"))
    copy.write(whole, (path.parent / min(weight_map.values())).read_bytes())
    return f"{copy.told(whole)}: a shard under the name of a whole file"


def litter(copy: Copy) -> str | None:
    """Adds a file that other systems and programs leave behind."""
    path = copy.choose.choice(copy.weights())
    names = (f"._{path.name}", ".DS_Store", "Thumbs.db", ".gitattributes", "README.md", "._config.json")
    name = copy.choose.choice(names)
    copy.write(path.parent / name, b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ")
    return f"{copy.told(path.parent / name)}: added"


def several_jsons(copy: Copy) -> str | None:
    """Adds a JSON file whose name looks like a config."""
    path = copy.choose.choice(copy.weights())
    name = copy.choose.choice(["my_config.json", "config_old.json", "adapter_config.json", "quantize_config.json"])
    copy.write(path.parent / name, copy.choose.choice([json.dumps([1]), "{", json.dumps({"a": 1})]))
    return f"{copy.told(path.parent / name)}: added"


INDEX = (tensor_not_in_index, tensor_in_other_shard, unknown_tensor_in_index, whole_index, index_cut, index_deleted,
         weights_deleted, weights_renamed, stale_index, whole_file_beside_shards, litter, several_jsons)  # fmt: skip
