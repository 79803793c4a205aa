"""One small tokenizer of each kind that checkpoints come with, made in code, and the real one of SmolLM2."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, ByT5Tokenizer, CTRLTokenizer, GPTSw3Tokenizer, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXT = "the server keeps a model in memory and then the queue goes on with what was said: 你好, 你好, naïve é 😀 "
SMOLLM2 = Path("~/.cache/agentname/models/smollm2-135m").expanduser()


def byte_level_bpe() -> Any:
    """As GPT-2, Llama 3, Qwen: tokens are bytes, so one token may hold parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 50, trainer)
    return _fast(tokenizer)


def byte_fallback_bpe(prepend: bool = True) -> Any:
    """As Llama 2, Mistral, Phi-3; without `prepend` as Gemma: what is not in the vocabulary becomes bytes."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL + BYTES, show_progress=False)
    trained.train_from_iterator(["".join(filter(str.isascii, TEXT))] * 50, trainer)
    state = json.loads(trained.to_str())
    state["pre_tokenizer"] = None
    state["model"] |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prepend else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend else steps)
    return _fast(tokenizer)


def unigram(byte_fallback: bool = False) -> Any:
    """As T5 and XLNet; with byte fallback as newer ones."""
    words = ["▁", "▁the", "▁server", "s", "▁a", "你", "好", "é", "e", "t", "😀", "\n", "▁▁", "\ufffd", "한"]
    vocabulary = [(token, -10.0) for token in SPECIAL + BYTES * byte_fallback]
    vocabulary += [(word, -2.0 - index / 100) for index, word in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=byte_fallback))
    metaspace = {"replacement": "▁", "prepend_scheme": "always"}
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
    spaces = decoders.Metaspace(**metaspace)
    fallback = [decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([spaces, *fallback]) if byte_fallback else spaces
    return _fast(tokenizer)


def word_piece() -> Any:
    """As BERT: tokens inside words begin with ##, and spaces before punctuation are left out."""
    words = ["the", "server", "keep", "##s", "a", "##a", "你", "##好", "é", "##é", ".", "'", "n", "'s", "😀", "\ufffd"]
    words += [f"{prefix}{letter}" for prefix in ("", "##") for letter in "bcdehimort"]
    vocabulary = {token: index for index, token in enumerate(SPECIAL + words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _fast(tokenizer)


def suffix_bpe() -> Any:
    """As GPT-1 and CLIP: the last token of a word ends in </w>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator([TEXT + "\ufffd 한국 x\ufffdy"] * 50, trainer)
    return _fast(tokenizer)


def word_level() -> Any:
    """Without a decoder: the library joins tokens by spaces."""
    words = [*TEXT.split(), *"abcdefghij", "한국어", "\ufffd"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _fast(tokenizer)


def slow_bytes() -> Any:
    """Written in Python: each token is one byte, and bytes that are no character have no text."""
    return ByT5Tokenizer()


def slow_words() -> Any:
    """Written in Python: @@ at the end of a token means that the word goes on, and is text in the last token."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.,", "é", "你", "好", "\ufffd"]
    tokens = ["<unk>", *letters, *(f"{letter}@@" for letter in letters), "the", "th@@", "he"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
        merges.write_text("#version: 0.2\nt h\nh e</w>\nth e</w>\n")
        return CTRLTokenizer(str(vocabulary), str(merges))


def slow_sentencepiece() -> Any:
    """SentencePiece's own library, with byte fallback."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20),
        model_writer=model,
        vocab_size=330,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "spiece.model")
        path.write_bytes(model.getvalue())
        return GPTSw3Tokenizer(str(path))


def smollm2() -> Any:
    if not SMOLLM2.is_dir():
        pytest.skip("smollm2-135m is not on this machine")
    return AutoTokenizer.from_pretrained(SMOLLM2)


BYTE_KINDS: dict[str, Callable[[], Any]] = {  # any text has tokens, some of them parts of characters
    "byte-level BPE": byte_level_bpe,
    "SmolLM2": smollm2,
    "BPE with byte fallback": byte_fallback_bpe,
    "BPE with byte fallback, no space prepended": functools.partial(byte_fallback_bpe, prepend=False),
    "Unigram with byte fallback": functools.partial(unigram, byte_fallback=True),
    "bytes in Python": slow_bytes,
    "SentencePiece in Python": slow_sentencepiece,
}
KINDS = BYTE_KINDS | {
    "Unigram": unigram,
    "WordPiece": word_piece,
    "BPE with suffixes": suffix_bpe,
    "words without decoder": word_level,
    "BPE in Python": slow_words,
}


@functools.cache
def tokenizer_of(kind: str) -> Any:
    return KINDS[kind]()


def _fast(tokenizer: Tokenizer) -> Any:
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
