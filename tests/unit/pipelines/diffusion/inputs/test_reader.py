"""What a request's clip loses or gains when it is brought to the model's rate and length is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.diffusion.inputs.reader import read_inputs
from pipelines.diffusion_interface import Inputs
from tests.support.lanes.lane_play import request
from tests.support.lanes.picture_jobs import clip_file
from tests.support.lanes.stock_families import FAMILIES


@pytest.mark.parametrize(
    ("n_in_file", "n_wanted", "told"),
    [
        (16, 9, ("video lasts 2 s: only its first 1.12 s were used.",)),
        (10, 9, ()),
        (8, 9, ("video has 8 frames at 8 a second: 1 was added, like the last one.",)),
        (5, 9, ("video has 5 frames at 8 a second: 4 were added, like the last one.",)),
    ],
)
def test_a_clip_of_another_length_than_the_output_is_cut_or_prolonged_with_a_warning(
    tmp_path: Path, n_in_file: int, n_wanted: int, told: tuple[str, ...]
) -> None:
    clip = clip_file(tmp_path / "clip.mp4", 32, 32, n_in_file)
    wanted = request(
        FAMILIES["wan"], "a", pipeline="WanVideoToVideoPipeline", num_frames=n_wanted, fps=8.0,
        inputs=Inputs(video=clip), input_arguments={"video": "video"},
    )  # fmt: skip

    media = read_inputs(wanted, "WanPipeline")

    assert (len(media.video), media.warnings) == (n_wanted, told)
