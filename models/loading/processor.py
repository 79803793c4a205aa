"""Opens the processor of a vision-language model, which makes tensors and tokens of pictures. Any thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.loading.components import errors_named
from pipelines.chat.prompts.pictures import PictureReader


def open_pictures(path: Path, tokenizer: Any) -> PictureReader:
    """tokenizer: the one that reads the prompts. Raises `BadModel`."""
    return PictureReader(open_processor(path), tokenizer)


def open_processor(path: Path) -> Any:
    """Raises `BadModel`."""
    from transformers import AutoProcessor

    from models.loading.no_videos import stand_in_for_videos

    stand_in_for_videos()
    with errors_named("the processor of its pictures", AutoProcessor):
        return AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
