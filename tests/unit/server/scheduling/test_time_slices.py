"""Chats and all other jobs share the device's seconds."""

import math

import pytest

from server.scheduling.actions import ModelFacts
from server.scheduling.resident import Resident
from server.scheduling.time_slices import TimeSlices


def resident(name: str) -> Resident:
    kind = "chat" if name == "chat" else "video"
    return Resident(ModelFacts(name, kind, 1, 8, 300.0), since=0.0, load_s=1.0, last_used=0.0)


@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_a_chat_that_used_its_share_goes_first_again_once_other_jobs_have_used_theirs(share: float) -> None:
    time_slices, chat, video = TimeSlices(share), resident("chat"), resident("video")
    assert time_slices.chat_due_in_s == 0.0
    time_slices.used(chat, 3.0)

    due_in_s = time_slices.chat_due_in_s
    assert math.isclose(due_in_s, 3.0 * (1 - share) / share, abs_tol=1e-9)
    assert time_slices.next_of([chat, video]) is (video if due_in_s else chat)
    time_slices.used(video, due_in_s)
    assert time_slices.chat_due_in_s <= 1e-9
