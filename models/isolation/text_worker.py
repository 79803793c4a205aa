"""The process that runs one model's chat template and tokenizer on users' texts, with bounded memory and time.

A template is a program, and a tokenizer may search for a regular expression of its author's: either may loop on one
word of a user's. The state of the tokenizer comes from the server, which opened it. No torch.

Run as: python -m models.isolation.text_worker
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from models.isolation.panics import is_panic
from models.isolation.serving import doing, serve
from pipelines.chat.templates.language import render
from pipelines.fault_points import reach

MAX_BYTES = 1 << 30  # of memory; a vocabulary of 260,000 words takes 150 MiB
CPU_S = 3.0  # for one rendering, or for the tokens of one text: a million characters take one second
WALL_S = 20.0
MAX_TEXT_CHARS = 32 << 20  # of a rendering; requests are far smaller


class _Worker:
    def __init__(self) -> None:
        self._tokenizer: Any = None

    def answer(self, question: Any) -> object:
        doing("template" if question["do"] == "render" else "tokenizer")
        try:
            match question:
                case {"do": "render", "template": template, "variables": variables}:
                    reach("render", template)
                    text = render(template, variables)
                    if len(text) > MAX_TEXT_CHARS:
                        raise MemoryError("the template wrote too much")
                    return {"text": text}
                case {"do": "open", "tokenizer": state}:
                    self._tokenizer = Tokenizer.from_str(state)
                    return {}
                case {"do": "encode", "texts": texts}:
                    reach("tokenize", str(texts))
                    return {"encodings": self._encodings(texts, question)}
        except Exception as error:  # noqa: BLE001  # a stranger's program may raise anything
            return {"error": type(error).__name__, "message": str(error)[:2000]}
        except BaseException as error:
            if not is_panic(error):
                raise
            return {"error": "PanicException", "message": str(error)[:2000]}
        raise ValueError("an unknown question")

    def _encodings(self, texts: Any, how: Any) -> list[Any]:
        tokenizer = self._tokenizer
        tokenizer.encode_special_tokens = how["splits_special_tokens"]
        if how["truncation"] is None:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(**how["truncation"])
        if how["padding"] is None:
            tokenizer.no_padding()
        else:
            tokenizer.enable_padding(**how["padding"])
        inputs = texts if how["is_pretokenized"] else [tuple(text) if type(text) is list else text for text in texts]
        encodings = tokenizer.encode_batch(
            inputs, add_special_tokens=how["add_special_tokens"], is_pretokenized=how["is_pretokenized"]
        )
        return [_plain(encoding, with_offsets=how["with_offsets"]) for encoding in encodings]


def _plain(encoding: Any, *, with_offsets: bool) -> dict[str, Any]:
    """Only what is not the usual: one segment, no padding."""
    found: dict[str, Any] = {"ids": encoding.ids, "n_sequences": encoding.n_sequences}
    if any(encoding.type_ids):
        found["type_ids"] = encoding.type_ids
    if not all(encoding.attention_mask):
        found["attention_mask"] = encoding.attention_mask
    if with_offsets:
        found["offsets"] = encoding.offsets
        found["special_tokens_mask"] = encoding.special_tokens_mask
    if encoding.overflowing:
        found["overflowing"] = [_plain(each, with_offsets=with_offsets) for each in encoding.overflowing]
    return found


if __name__ == "__main__":
    serve(_Worker().answer, memory_bytes=MAX_BYTES, cpu_s=CPU_S, wall_s=WALL_S, niceness=0, keeps_nothing=False)
