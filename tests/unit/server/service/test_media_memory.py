"""The memory of pictures that chats hold: what is too much together, and when it is free again."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from pipelines.chat_interface import PromptMedia
from server.errors import TooMany
from server.service.media_memory import MediaMemory


def media(n_bytes: int) -> PromptMedia:
    return PromptMedia({"pixel_values": np.zeros(n_bytes, dtype=np.uint8)})


def test_pictures_that_do_not_fit_beside_others_are_refused_until_those_are_gone() -> None:
    memory = MediaMemory(1000)
    first = media(600)
    memory.take(first)
    with pytest.raises(TooMany, match="1000 B of memory together") as refused:
        memory.take(media(600))
    del first
    gc.collect()
    second = media(600)
    memory.take(second)

    assert refused.value.retry_after_s == 5
    assert memory.used_bytes == second.n_bytes == 600


def test_pictures_of_one_chat_are_taken_however_large_they_are() -> None:
    memory = MediaMemory(1000)
    alone = media(5000)
    memory.take(alone)

    assert memory.used_bytes == 5000
