"""Pictures: the fields that are done and taken."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.reference.writing import fields, item, names, paragraph, values


def section() -> Iterator[str]:
    from server.api.openai import image_schema
    from server.api.openai.image_edits import IMAGES, MASK
    from server.api.openai.image_schema import ImageEdit, ImageGeneration, ImageOptions, ImageVariation

    yield from ["## Images", "", "Fields that are done:", ""]
    yield from fields(ImageGeneration)
    yield from ["", "Fields that are taken:", ""]
    yield from item(f"without an effect: {names(sorted(image_schema.IGNORED))}")
    for name, neutral in image_schema.NEUTRAL.items():
        yield from item(f"`{name}` as {values(neutral)}")
    yield from ["", "### Edits and variations", ""]
    yield from paragraph(
        "The body is a form or JSON. Edits have the fields above and these; variations have those of them that are not "
        "about a prompt or a mask, and exactly one `image`. A picture is a file of the form, or an object like "
        '`{"image_url": URL}` or `{"file_id": ID}`, where URL is a data URL and ID the id of a file or of an output of '
        "one of your jobs; so are the pictures and clips of videos."
    )
    yield from item(f"`image`: {IMAGES}")
    yield from item(f"`mask`: {MASK}")
    yield from fields(ImageEdit, {*ImageOptions.model_fields, "prompt"})
    yield ""
    assert ImageVariation.model_fields.keys() <= ImageEdit.model_fields.keys(), "the text above says so"
