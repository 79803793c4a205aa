"""Edits of the files of tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.damage_configs import JUNK
from benchmarks.damage_copy import Copy, read_object


def _file(copy: Copy, *names: str) -> Path | None:
    files = [path for path in copy.tokenizer_files() if not names or path.name in names]
    return copy.choose.choice(files) if files else None


def _vocabulary(copy: Copy) -> tuple[Path, dict[str, Any], dict[str, int] | list[list[Any]]] | None:
    """Returns the path of a vocabulary, the content of its file, and the vocabulary in it."""
    path = _file(copy, "tokenizer.json", "vocab.json")
    if path is None:
        return None
    content = read_object(path)
    return path, content, content if path.name == "vocab.json" else content["model"]["vocab"]


def file_deleted(copy: Copy) -> str | None:
    path = _file(copy)
    assert path is not None
    path.unlink()
    return f"{copy.told(path)}: deleted"


def folder_emptied(copy: Copy) -> str | None:
    path = _file(copy)
    assert path is not None
    if (path.parent / "config.json").exists():  # the folder of a language model
        return None
    for each in path.parent.iterdir():
        each.unlink()
    return f"{copy.told(path.parent)}: empty"


def file_cut(copy: Copy) -> str | None:
    path = _file(copy)
    assert path is not None
    content = path.read_bytes()
    copy.write(path, content[: copy.choose.randrange(len(content))])
    return f"{copy.told(path)}: cut"


def byte_changed(copy: Copy) -> str | None:
    path = _file(copy)
    assert path is not None
    content = bytearray(path.read_bytes())
    place = copy.choose.randrange(len(content))
    content[place] ^= 1 << copy.choose.randrange(8)
    copy.write(path, bytes(content))
    return f"{copy.told(path)}: a bit of byte {place}"


def word_dropped(copy: Copy) -> str | None:
    if (found := _vocabulary(copy)) is None:
        return None
    path, content, words = found
    if isinstance(words, list):
        word = words.pop(copy.choose.randrange(len(words)))
    else:
        word = copy.choose.choice(sorted(words))
        del words[word]
    copy.write_json(path, content)
    return f"{copy.told(path)}: without {word!r}"


def words_dropped(copy: Copy) -> str | None:
    """Cuts the vocabulary to half its words."""
    if (found := _vocabulary(copy)) is None:
        return None
    path, content, words = found
    kept = len(words) // 2
    if isinstance(words, list):
        del words[kept:]
    else:
        for word in sorted(words, key=lambda word: words[word])[kept:]:
            del words[word]
    copy.write_json(path, content)
    return f"{copy.told(path)}: {kept} words"


def word_number(copy: Copy) -> str | None:
    """Gives a word a number that another has, or that no embedding has."""
    if (found := _vocabulary(copy)) is None:
        return None
    path, content, words = found
    if isinstance(words, list):
        return None
    word = copy.choose.choice(sorted(words))
    words[word] = copy.choose.choice([0, 1, len(words) + 1000, -1, 2**40])
    copy.write_json(path, content)
    return f"{copy.told(path)}: {word!r} is {words[word]}"


def words_added(copy: Copy) -> str | None:
    """Adds words that no embedding has."""
    if (found := _vocabulary(copy)) is None:
        return None
    path, content, words = found
    if isinstance(words, list):
        words += [[f"red{n}", -1.0] for n in range(500)]
    else:
        first = max(words.values()) + 1
        words |= {f"red{n}": first + n for n in range(500)}
    copy.write_json(path, content)
    return f"{copy.told(path)}: 500 words more"


def merges(copy: Copy) -> str | None:
    path = _file(copy, "tokenizer.json", "merges.txt")
    if path is None:
        return None
    merge = copy.choose.choice(["a b", "r e", "no such", "a", ""])
    if path.name == "merges.txt":
        copy.write(path, copy.choose.choice(["", "#version: 0.2\n", path.read_text() + merge + "\n"]))
        return f"{copy.told(path)}: {path.read_text()!r}"
    content = read_object(path)
    if "merges" not in content["model"]:
        return None
    content["model"]["merges"].append(merge.split(" "))
    copy.write_json(path, content)
    return f"{copy.told(path)}: with the merge {merge!r}"


def special_token(copy: Copy) -> str | None:
    path = _file(copy, "tokenizer_config.json")
    if path is None:
        return None
    config = read_object(path)
    keys = [key for key in config if key.endswith("_token")]
    if not keys:
        return None
    key = copy.choose.choice(keys)
    config[key] = copy.choose.choice([None, "<another>", "a", 5, {"content": "<another>"}, "", ["a"]])
    copy.write_json(path, config)
    return f"{copy.told(path)}: {key} is {config[key]!r}"


def added_token(copy: Copy) -> str | None:
    path = _file(copy, "tokenizer.json")
    if path is None:
        return None
    content = read_object(path)
    tokens = content.get("added_tokens")
    if not tokens:
        return None
    token = copy.choose.choice(tokens)
    what = copy.choose.choice(["dropped", "another number", "not special", "another text"])
    match what:
        case "dropped":
            tokens.remove(token)
        case "another number":
            token["id"] += 1000
        case "not special":
            token["special"] = False
        case _:
            token["content"] = "<another>"
    copy.write_json(path, content)
    return f"{copy.told(path)}: an added token {what}"


def tokenizer_key(copy: Copy) -> str | None:
    path = _file(copy, "tokenizer_config.json")
    if path is None:
        return None
    config = read_object(path)
    key = copy.choose.choice(sorted(config))
    if copy.choose.random() < 0.3:
        del config[key]
        what = f"without {key}"
    else:
        config[key] = copy.choose.choice([*JUNK, "LlamaTokenizer", "T5Tokenizer", "NoSuchTokenizer", 10**30])
        what = f"{key} is {json.dumps(config[key])}"
    copy.write_json(path, config)
    return f"{copy.told(path)}: {what}"


def tokenizer_structure(copy: Copy) -> str | None:
    """Replaces or drops a part of tokenizer.json."""
    path = _file(copy, "tokenizer.json")
    if path is None:
        return None
    content = read_object(path)
    key = copy.choose.choice(sorted(content))
    content[key] = copy.choose.choice(JUNK)
    copy.write_json(path, content)
    return f"{copy.told(path)}: {key} is {json.dumps(content[key])}"


def chat_template(copy: Copy) -> str | None:
    path = _file(copy, "chat_template.jinja")
    if path is None:
        return None
    templates = ("", "{{ raise_exception('no') }}", "{% for m in", "{{ messages[0].content }}", "{{ 1 / 0 }}", "plain",
                 "{% for i in range(10**9) %}a{% endfor %}", "{{ messages.__class__ }}")  # fmt: skip
    template = copy.choose.choice(templates)
    copy.write(path, template)
    return f"{copy.told(path)}: {template!r}"


TOKENIZER = (file_deleted, folder_emptied, file_cut, byte_changed, word_dropped, words_dropped, word_number,
             words_added, merges, special_token, added_token, tokenizer_key, tokenizer_structure,
             chat_template)  # fmt: skip
