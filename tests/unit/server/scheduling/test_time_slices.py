"""Chat and the rest share the device's seconds, to the second."""

import math

import pytest

from server.scheduling.actions import ModelFacts
from server.scheduling.resident import Resident
from server.scheduling.time_slices import TimeSlices


def resident(name: str) -> Resident:
    kind = "chat" if name == "chat" else "video"
    return Resident(ModelFacts(name, kind, 1, 8, 300.0), since=0.0, load_s=1.0, last_used=0.0)


@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_a_chat_that_used_its_share_is_due_again_when_the_rest_has_had_its_own(share: float) -> None:
    turns, chat, clip = TimeSlices(share), resident("chat"), resident("clip")
    assert turns.chat_due_in_s == 0.0
    turns.used(chat, 3.0)

    due = turns.chat_due_in_s
    assert math.isclose(due, 3.0 * (1 - share) / share, abs_tol=1e-9)
    assert turns.next_of([chat, clip]) is (clip if due else chat)
    turns.used(clip, due)
    assert turns.chat_due_in_s <= 1e-9
