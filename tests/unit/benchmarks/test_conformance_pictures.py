"""Classes that take pictures or clips are all accounted for, and a few of them equal the library in a lane."""

from __future__ import annotations

import re

import pytest

from benchmarks.conformance_lane import compare_pictures_in_lane
from benchmarks.families import PICTURE_FAMILIES
from benchmarks.families.unserved import left_out_with_pictures, without_reason
from tests.support.paths import ROOT

TEXT = (ROOT / "docs/models.md").read_text()
TABLE = TEXT.split("<!-- start of pictures ")[1].split("<!-- end of pictures ")[0].split("Not in the proof:")
CLASSES = re.compile(r"^\| (\w+Pipeline) \|", re.MULTILINE)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def test_the_table_has_each_class_that_is_compared() -> None:
    assert set(CLASSES.findall(TABLE[0])) == PICTURE_FAMILIES.keys()


@pytest.mark.slow
def test_each_other_class_has_a_reason_in_the_table() -> None:
    assert without_reason() == []
    assert set(CLASSES.findall(TABLE[1])) == left_out_with_pictures().keys()


@pytest.mark.slow
def test_a_class_of_the_table_equals_the_library_beside_others_of_its_checkpoint() -> None:
    assert _shares("FluxInpaintPipeline")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionInstructPix2PixPipeline",  # edits
        "ZImageControlNetInpaintPipeline",  # borrows a ControlNet
        "FluxFillPipeline",  # a checkpoint that only fills
        "IFSuperResolutionPipeline",  # works on pixels
        "HunyuanVideoFramepackPipeline",  # the first and the last frame
        "CogVideoXVideoToVideoPipeline",
    ],
)
def test_classes_of_each_kind_equal_the_library(name: str) -> None:
    assert _shares(name)


def _shares(name: str) -> bool:
    """Whether jobs share steps. Asserts that each equals the library."""
    row = compare_pictures_in_lane(name)
    assert row.equal, row
    return row.shared
