"""How the pictures of a request become the inputs of a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.jobs.request.generate_request import GenerateRequest
from server.service.picture_inputs import taken, ways_to_take, with_strength
from tests.support.http.picture_doors import EDITS, FOLLOWS, INPAINTS, TEXT, painter, task

WANTED = GenerateRequest(type="image", prompt="x", image="a")


def test_a_picture_is_changed_by_models_that_do_it_and_a_reference_for_others() -> None:
    refers = painter("refers", TEXT, task("ReferencePipeline", images="reference_images"))
    requests = [
        taken(model, GenerateRequest(type="image", prompt="x"), ways_to_take(["a"]))
        for model in (painter("edits", TEXT, EDITS), refers, painter("writes", TEXT))
    ]

    assert [found and (found[0].image, found[0].images) for found in requests] == [("a", ()), (None, ("a",)), None]


def test_several_pictures_are_references_or_a_picture_with_references() -> None:
    both = painter("both", task("BothPipeline", image="image", images="reference_images"))
    masked = ways_to_take(["a", "b"], "m")

    for model in (painter("follows", FOLLOWS), both):
        found = taken(model, GenerateRequest(type="image", prompt="x"), ways_to_take(["a", "b"]))
        assert found is not None
        assert found[0].images == ("a", "b")
    assert masked == [{"image": "a", "mask": "m", "images": ("b",)}]
    assert taken(painter("inpaints", INPAINTS), GenerateRequest(type="image", prompt="x"), masked) is None


def test_a_pipeline_that_borrows_a_module_is_not_chosen() -> None:
    borrows = replace(EDITS, lent={"controlnet": ("ControlNetModel",)})

    assert taken(painter("borrows", TEXT, borrows), WANTED, ways_to_take(["a"])) is None


@pytest.mark.parametrize(
    ("asked", "steps", "default_steps", "strength"),
    [(None, None, 4, 0.5), (0.2, None, 4, 0.2), (None, 1, 4, 1.0), (None, None, 1, 1.0), (None, None, None, 0.5)],
)
def test_a_strength_leaves_at_least_one_step(
    asked: float | None, steps: int | None, default_steps: int | None, strength: float
) -> None:
    request = replace(WANTED, strength=asked, steps=steps)

    assert with_strength(request, EDITS, 0.5, default_steps).strength == strength


def test_a_pipeline_without_a_strength_gets_none() -> None:
    assert with_strength(WANTED, FOLLOWS, 0.5, 4) == with_strength(WANTED, None, 0.5, 4) == WANTED
