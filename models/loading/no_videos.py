"""Lets processors of vision-language models be opened without what only their part for video needs. Any thread.

That part needs torchvision. PyPI's torchvision is of the CUDA build of torch and cannot be imported beside the CPU
build, so that it is no requirement of ours. Where it is not installed, a stand-in takes the place of the video's
processor, which nothing here calls, and pictures are read by the library's processors for PIL.
"""

from __future__ import annotations

from transformers import processing_utils
from transformers.models.smolvlm import processing_smolvlm
from transformers.utils import PushToHubMixin

from models.required_packages import is_installed


class NoVideos(PushToHubMixin):
    """In the place of a processor for video."""

    model_input_names = ()
    _auto_class = None

    @classmethod
    def from_pretrained(cls, *_: object, **__: object) -> NoVideos:
        return cls()

    def to_dict(self) -> dict[str, object]:  # processors print themselves when they are opened
        return {}


def stand_in_for_videos() -> None:
    if not is_installed("torchvision"):
        processing_utils.MODALITY_TO_AUTOPROCESSOR_MAPPING._MAPPING_NAMES["video_processor"] = (__name__, "NoVideos")
        processing_utils.transformers_module.VideoProcessorMixin = NoVideos  # the class that it must be of
    if processing_smolvlm.num2words is None:  # SmolVLM says in words how many frames a video has
        processing_smolvlm.num2words = str
