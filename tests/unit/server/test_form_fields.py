"""The fields of a form as the JSON of the same request would have them."""

from __future__ import annotations

import pytest

from server.api.shared.form_fields import form_fields
from server.api.shared.multipart import Form, UploadedFile
from server.errors import BadRequest

A, B = UploadedFile(b"a", "a.png", "image/png"), UploadedFile(b"b", "", "")


def test_numbers_and_booleans_are_those_that_the_schema_says() -> None:
    texts = {
        "n": ["2"], "strength": ["0.5"], "stream": ["False"], "seed": ["x"], "steps": ["٣"], "seconds": ["4"],
        "model": [""],
    }  # fmt: skip

    fields = form_fields(Form(texts, {}), {"n", "strength", "stream", "seed", "steps"})

    assert fields == {"n": 2, "strength": 0.5, "stream": False, "seed": "x", "steps": "٣", "seconds": "4"}
    assert fields["stream"] is False


def test_lists_and_objects_are_read_by_the_names_of_the_parts() -> None:
    form = Form(
        {"reference[file_id]": ["file_1"], "twice": ["a", "b"], "one[]": ["a"]},
        {"image": [A], "image[]": [B], "images[0]": [A], "images[1]": [B]},
    )

    assert form_fields(form) == {
        "reference": {"file_id": "file_1"},
        "twice": ["a", "b"],
        "one": ["a"],
        "image": [A, B],
        "images": [A, B],
    }


@pytest.mark.parametrize(
    "texts",
    [
        {"a": ["x"], "a[b]": ["y"]},
        {"a[b]": ["x"], "a": ["y"]},
        {"a[b]": ["x", "y"]},
        {"a[b]": ["x"], "a[]": ["y"]},
    ],
)
def test_names_that_contradict_each_other_are_refused(texts: dict[str, list[str]]) -> None:
    with pytest.raises(BadRequest, match="twice"):
        form_fields(Form(texts, {}))
