"""A tokenizer's vocabulary as llguidance needs it: the bytes that each token adds to a text. No torch.

llguidance reads most tokenizers itself, but its reading keeps every other thread from running for up to two seconds,
and it may take a token for other bytes than our `Detokenizer` does, which makes the text of replies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llguidance import LLTokenizer

from pipelines.chat.replies.detokenize import Detokenizer, bytes_of_name

N_COMPARED = 256  # tokens by which a quick way to read the vocabulary is compared with the slow one
WORD_START = "▁"  # SentencePiece writes a space so
PROBES = ('{"name": "Anna",\n\t"list": [1, -2.5e3, true, null]}', "the best of a sentence, with two words more")


class NoVocabulary(Exception):
    """The texts of this tokenizer's tokens, put together, do not make the text of a reply."""


class Vocabulary:
    """What `LLTokenizer` asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = None  # llguidance adds a token of its own behind the others: `end`

    def __init__(self, tokens: Sequence[bytes], special_token_ids: Sequence[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = special_token_ids
        self._ids = {token: index for index, token in enumerate(tokens) if token}
        self._overrunning: dict[str, Sequence[int]] = {}
        self._longest = max(map(len, self._ids), default=0)

    @property
    def end(self) -> int:
        """The number that stands for the end of what a grammar describes. No token of the model has it."""
        return len(self.tokens)

    def overrunning(self, text: str) -> Sequence[int]:
        """The tokens that begin with the text and go on with more than white space. Looked for once for each text."""
        known = self._overrunning.get(text)
        if known is None:
            begin = text.encode()
            found = [
                i for i, token in enumerate(self.tokens) if token.startswith(begin) and token[len(begin) :].strip()
            ]
            known = self._overrunning[text] = found
        return known

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokenize greedily. llguidance asks only if a grammar prescribes tokens, which ours do not."""
        rest = text.encode() if isinstance(text, str) else text
        tokens = []
        while rest:
            length = next((n for n in range(min(len(rest), self._longest), 0, -1) if rest[:n] in self._ids), 0)
            if not length:
                break
            tokens.append(self._ids[rest[:length]])
            rest = rest[length:]
        return tokens


def read_vocabulary(tokenizer: Any) -> Vocabulary:
    """Takes up to a second. Raises `NoVocabulary` where the text of a token depends on its neighbors."""
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    names = [name if isinstance(name, str) else "" for name in tokenizer.convert_ids_to_tokens(range(size))]
    added = {token: options for token, options in tokenizer.added_tokens_decoder.items() if 0 <= token < size}
    special = {token for token, options in added.items() if options.special}
    special |= {token for token in tokenizer.all_special_ids if 0 <= token < size}
    plain = [token for token in range(size) if token not in special and token not in added]
    detokenizer = Detokenizer(tokenizer)
    known = {token: detokenizer.utf8_of(token) for token in added} | {token: names[token].encode() for token in special}
    for read in _ways_to_read(detokenizer, names, plain[:: max(1, len(plain) // N_COMPARED)]):
        tokens = [known[token] if token in known else read(token) for token in range(size)]
        if all(_makes_text(tokenizer, tokens, probe) for probe in PROBES):
            return Vocabulary(tokens, sorted(special))
    raise NoVocabulary


def _ways_to_read(
    detokenizer: Detokenizer, names: Sequence[str], some: Sequence[int]
) -> Sequence[Callable[[int], bytes]]:
    """Ways to get the bytes of a token, by its number; the likeliest first. some: tokens to compare them by."""
    quick = [functools.partial(_by_name, read, names) for read in (bytes_of_name, _of_sentence_pieces)]
    agreeing = [read for read in quick if all(read(token) == detokenizer.utf8_of(token) for token in some)]
    return (*agreeing, detokenizer.utf8_of, *quick)


def open_vocabulary(vocabulary: Vocabulary) -> LLTokenizer:
    """Keeps other Python threads from running, 0.1 s for 50,000 tokens."""
    return LLTokenizer(vocabulary, slices=LLTokenizer.json_slices())  # type: ignore[arg-type]  # it has what is needed


def _by_name(read: Callable[[str], bytes], names: Sequence[str], token: int) -> bytes:
    return read(names[token])


def _of_sentence_pieces(name: str) -> bytes:
    """As SentencePiece spells tokens."""
    is_byte = len(name) == 6 and name.startswith("<0x") and name.endswith(">")
    return bytes_of_name(name) if is_byte else name.replace(WORD_START, " ").encode()


def _makes_text(tokenizer: Any, tokens: Sequence[bytes], text: str) -> bool:
    """Whether the bytes of a text's tokens, put together, are what the tokenizer decodes."""
    unknown = tokenizer.unk_token_id
    ids = [token for token in tokenizer.encode(text, add_special_tokens=False) if token != unknown]
    decoded = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return b"".join(tokens[token] for token in ids).strip() == decoded.strip().encode()
