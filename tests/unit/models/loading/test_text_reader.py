"""Texts become tokens on worker threads: prompts before them, limits, and tokens of a client's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.embedding_layout import EmbeddingLayout
from models.errors import BadModel
from models.loading.text_reader import TextReader
from models.spec import Limits, ModelSpec
from pipelines.embedding_interface import TextOptions, TextRefused
from tests.support.lanes.tiny_encoders import N_TOKENS, tiny_tokenizer

PROMPTS = {"query": "q: ", "passage": "p: "}
PLAIN = TextOptions()


def spec(*, max_tokens: int = 20, **layout: Any) -> ModelSpec:
    return ModelSpec(
        name="m",
        type="embedding",
        path=Path("m"),
        source="m",
        fingerprint="1",
        limits=Limits(context_tokens=max_tokens),
        embedding=EmbeddingLayout(dimensions=4, pooling=("mean",), **layout),
    )


class Opener:
    """Counts the tokenizers that it opens."""

    def __init__(self) -> None:
        self.n_opened = 0

    def __call__(self, spec: ModelSpec, path: Path) -> Any:
        self.n_opened += 1
        return tiny_tokenizer()


def read(text: str, model: ModelSpec, options: TextOptions = PLAIN) -> str:
    """The tokens of a text as they are written: "<s> a ##b </s>"."""
    (tokens,) = TextReader(Opener()).read(model, [text], options)
    return " ".join(tiny_tokenizer().convert_ids_to_tokens(list(tokens.tokens)))


def test_a_text_gets_the_tokens_of_its_tokenizer() -> None:
    assert read("ab c", spec()) == "<s> a ##b c </s>"


def test_a_tokenizer_is_opened_once() -> None:
    opener = Opener()
    reader = TextReader(opener)
    for _ in range(3):
        assert len(reader.read(spec(), ["a", "b"], PLAIN)) == 2

    assert opener.n_opened == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PLAIN, "<s> x </s>"),
        (TextOptions(prompt_name="query"), "<s> q : x </s>"),
        (TextOptions(input_type="query"), "<s> q : x </s>"),
        (TextOptions(input_type="search_query"), "<s> q : x </s>"),
        (TextOptions(input_type="document"), "<s> p : x </s>"),
        (TextOptions(input_type="classification"), "<s> x </s>"),
    ],
)
def test_a_prompt_goes_before_the_text(options: TextOptions, expected: str) -> None:
    assert read("x", spec(prompts=PROMPTS), options) == expected


def test_the_checkpoints_default_prompt_applies_to_texts_and_not_to_tokens() -> None:
    model = spec(prompts=PROMPTS, default_prompt="passage")

    assert read("x", model) == "<s> p : x </s>"
    (tokens,) = TextReader(Opener()).read(model, [[1, 5, 2]], PLAIN)
    assert tokens.tokens == (1, 5, 2)


def test_the_tokens_of_a_prompt_are_counted_where_the_pooling_leaves_them_out() -> None:
    model = spec(prompts=PROMPTS, default_prompt="query", pools_prompt=False)
    text, tokens = TextReader(Opener()).read(model, ["x", [1, 5, 2]], PLAIN)

    assert (text.n_prompt_tokens, tokens.n_prompt_tokens) == (3, 0)


def test_texts_are_read_in_lower_case_where_the_checkpoint_says_so() -> None:
    assert read("AB", spec(lower_cases=True)) == "<s> a ##b </s>"


def test_a_text_that_is_too_long_is_refused_with_its_place_and_cut_where_that_is_asked_for() -> None:
    reader, model = TextReader(Opener()), spec()
    reader.read(model, ["a" * 18], PLAIN)
    with pytest.raises(TextRefused, match=r"input\[1\] has 21 tokens; the model reads at most 20"):
        reader.read(model, ["a", "b" * 19], PLAIN)
    cut = reader.read(model, ["b" * 19, [5] * 30], TextOptions(truncate=True))

    assert [len(text.tokens) for text in cut] == [20, 20]
    assert cut[0].tokens[-1] == 2, "the end token stays"


def test_of_a_text_that_is_far_too_long_only_the_beginning_is_tokenized() -> None:
    lengths: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self._tokenizer = tiny_tokenizer()
            self.get_vocab = self._tokenizer.get_vocab

        def __call__(self, texts: list[str], **options: Any) -> Any:
            lengths.extend(map(len, texts))
            return self._tokenizer(texts, **options)

    with pytest.raises(TextRefused, match="the model reads at most 20"):
        TextReader(lambda spec, path: Counting()).read(spec(), ["a b " * 1_000_000], PLAIN)

    assert max(lengths) < 100_000


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([[N_TOKENS]], f"numbers from 0 to {N_TOKENS - 1}"),
        ([[-1]], "numbers from 0"),
        ([[]], "is empty"),
        (["\ud800"], "tokenizer fails"),
    ],
)
def test_what_the_model_cannot_read_is_refused(inputs: Any, words: str) -> None:
    with pytest.raises(TextRefused, match=words):
        TextReader(Opener()).read(spec(), inputs, PLAIN)


def test_a_prompt_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(TextRefused, match="it has query, passage") as caught:
        read("x", spec(prompts=PROMPTS), TextOptions(prompt_name="other"))
    assert caught.value.field == "prompt_name"
    with pytest.raises(TextRefused, match="it has none"):
        read("x", spec(), TextOptions(prompt_name="other"))


def test_all_texts_together_may_have_only_so_many_tokens() -> None:
    reader = TextReader(Opener())
    reader.read(spec(), ["a"] * 100, TextOptions(max_tokens=300))
    with pytest.raises(TextRefused, match="more than 299 tokens in total"):
        reader.read(spec(), ["a"] * 100, TextOptions(max_tokens=299))


def test_a_model_that_is_not_downloaded_says_so() -> None:
    away = ModelSpec(name="m", type="embedding", path=None, source="owner/name")
    with pytest.raises(BadModel, match="not downloaded"):
        TextReader(Opener()).read(away, ["a"], PLAIN)
