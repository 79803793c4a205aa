"""A model is found by what people and their clients write for it, and nothing else is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.catalogue import Catalogue
from models.catalogue_reader import STILL_READ, RefusedModel
from models.errors import NotServed, StillRead, UnknownModel
from models.model_names import PLAIN, SeveralModels, pulled_from
from models.spec import ModelSpec

COMMIT = "0123456789" * 4


def spec(name: str, source: str = "/models/x", path: Path | None = Path("/models/x"), **values: Any) -> ModelSpec:
    return ModelSpec(name=name, type="chat", path=path, source=source, **values)


def pulled(name: str, source: str, **values: Any) -> ModelSpec:
    """A model whose files are in the hub's cache, as its source is recorded: with the commit."""
    repo = source.partition(":")[0].partition("@")[0].replace("/", "--")
    return spec(name, source, Path(f"/cache/hub/models--{repo}/snapshots/{COMMIT}"), **values)


SMOL = spec("smollm2-135m", aliases=("Little", "team/little"))
QWEN = pulled("qwen2.5-7b-instruct", f"Qwen/Qwen2.5-7B-Instruct@{COMMIT}")
GGUF_4 = pulled("tiny-q4", f"bartowski/Tiny-GGUF@{COMMIT}:tiny-Q4.gguf")
GGUF_8 = pulled("tiny-q8", f"bartowski/Tiny-GGUF@{COMMIT}:tiny-Q8.gguf")
FOLDER = spec("local", "folder/checkpoint", Path("/data/folder/checkpoint"))  # a relative path that looks like an id
UNFETCHED = spec("later", "owner/later", None)
CATALOGUE = Catalogue([SMOL, QWEN, GGUF_4, GGUF_8, FOLDER, UNFETCHED])


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("SmolLM2-135M", "smollm2-135m"),
        ("smollm2-135m:latest", "smollm2-135m"),
        ("SMOLLM2-135M:Latest", "smollm2-135m"),
        ("Little", "smollm2-135m"),
        ("LITTLE:latest", "smollm2-135m"),
        ("team/little", "smollm2-135m"),
        ("Team/Little", "smollm2-135m"),
        ("Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"),
        ("qwen/qwen2.5-7b-instruct", "qwen2.5-7b-instruct"),
        ("Qwen/Qwen2.5-7B-Instruct:latest", "qwen2.5-7b-instruct"),
        (f"Qwen/Qwen2.5-7B-Instruct@{COMMIT}", "qwen2.5-7b-instruct"),
        ("bartowski/tiny-gguf:tiny-Q8.gguf", "tiny-q8"),
        ("owner/later", "later"),
    ],
)
def test_other_spellings_find_the_model(written: str, name: str) -> None:
    assert CATALOGUE.get(written).name == name


@pytest.mark.parametrize(
    "written",
    [
        "", " ", ":latest", "smollm2", "smollm2-135m:", "smollm2-135m:q4", "smollm2-135m:latest:latest",
        "owner/smollm2-135m", "Qwen", "Qwen/", "/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B", "other/Qwen2.5-7B-Instruct",
        f"Qwen/Qwen2.5-7B-Instruct@{'f' * 40}", "Qwen/Qwen2.5-7B-Instruct@main", "bartowski/Tiny-GGUF:tiny-Q2.gguf",
        "folder/checkpoint", "../smollm2-135m", "smollm2-135m\n", "smollm2-135m\x00", "ſmollm2-135m", "<b>",
        "x" * 10_000,
    ],
)  # fmt: skip
def test_anything_else_is_unknown_and_not_repeated(written: str) -> None:
    with pytest.raises(UnknownModel) as error:
        CATALOGUE.get(written)

    assert not isinstance(error.value, SeveralModels)
    assert PLAIN.fullmatch(written) or len(written) < 2 or written not in error.value.message


def test_a_hub_id_of_several_models_is_refused_with_their_names() -> None:
    with pytest.raises(SeveralModels, match="tiny-q4 or tiny-q8"):
        CATALOGUE.get("bartowski/Tiny-GGUF")


def test_an_exact_name_wins_over_every_other_spelling() -> None:
    catalogue = Catalogue([spec("painter"), spec("other", aliases=("Painter", "painter:latest"))])

    assert catalogue.get("painter").name == "painter"
    assert catalogue.get("Painter").name == "other"
    assert catalogue.get("painter:latest").name == "other"
    with pytest.raises(SeveralModels, match="other or painter"):
        catalogue.get("PAINTER")


def test_a_model_that_cannot_be_served_says_so_in_every_spelling() -> None:
    catalogue = Catalogue([SMOL], refused=[RefusedModel("broken", "has no weights", "incomplete", ("the weights",))])

    for written in ("broken", "Broken", "BROKEN:latest"):
        with pytest.raises(NotServed, match=r"^The model broken cannot be served. It lacks the weights."):
            catalogue.get(written)


def test_a_model_that_is_still_being_read_is_not_taken_for_one_that_cannot_be_served() -> None:
    refused = [RefusedModel("slow", STILL_READ.reason, STILL_READ.state)]
    catalogue = Catalogue([SMOL], refused=refused, defaults={"chat": "slow"})

    with pytest.raises(StillRead, match=r"^The model slow is still being read\. Ask again in a moment\."):
        catalogue.get("SLOW:latest")
    assert catalogue.default_for("chat") == "slow"  # another one would answer in its place


@pytest.mark.parametrize("setting", ["Little", "SmolLM2-135M", "smollm2-135m:latest"])
def test_the_default_model_may_be_set_in_any_spelling(setting: str) -> None:
    catalogue = Catalogue([spec("a-first"), SMOL], defaults={"chat": setting})

    assert catalogue.default_for("chat") == "smollm2-135m"


def test_a_default_that_now_means_several_models_gives_way() -> None:
    catalogue = Catalogue([GGUF_4], defaults={"chat": "bartowski/Tiny-GGUF"})
    assert catalogue.default_for("chat") == "tiny-q4"

    class Reader:
        specs = {"another": spec("another"), "tiny-q4": GGUF_4, "tiny-q8": GGUF_8}  # noqa: RUF012  # read only
        refused = ()

    catalogue.apply(catalogue.compare(Reader()))  # type: ignore[arg-type]  # the two fields that count

    assert catalogue.default_for("chat") == "another"


def test_a_model_removed_is_not_taken_for_another_of_a_similar_name() -> None:
    catalogue = Catalogue([spec("painter")])

    class Reader:
        specs = {"other": spec("other", aliases=("PAINTER",))}  # noqa: RUF012  # read only
        refused = ()

    catalogue.apply(catalogue.compare(Reader()))  # type: ignore[arg-type]  # the two fields that count

    assert catalogue.recall("painter").name == "painter"


def test_only_what_was_pulled_has_a_hub_id() -> None:
    found = {model.name: pulled_from(model) for model in (SMOL, QWEN, GGUF_8, FOLDER, UNFETCHED)}

    assert {name: str(source) for name, source in found.items() if source is not None} == {
        "qwen2.5-7b-instruct": QWEN.source,
        "tiny-q8": GGUF_8.source,
        "later": "owner/later",
    }


@pytest.mark.parametrize("text", ["gpt-4o", "Qwen/Qwen2.5-7B-Instruct", "x"])
def test_plain_names_may_be_repeated(text: str) -> None:
    assert PLAIN.fullmatch(text)


@pytest.mark.parametrize("text", ["", "<b>", "../x", "a/b/c", "a b", "ä", "x\n", "x" * 200, "/x", "x/"])
def test_other_texts_are_not_repeated(text: str) -> None:
    assert not PLAIN.fullmatch(text)
