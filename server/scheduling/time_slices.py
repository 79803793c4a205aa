"""Decides whose lane takes the next step. Device thread only; pure.

Chat lanes go first, up to their share of the device's seconds. Among the lanes of a class (chat or not) the one that
has used the fewest seconds goes first. A lane that is suspended inside a forward resumes it before the other lanes of
its class start a forward.
"""

from __future__ import annotations

from collections.abc import Collection

from server.scheduling.resident import Resident


class TimeSlices:
    def __init__(self, chat_share: float) -> None:
        """chat_share: the share of the device's seconds for chats while both chats and other jobs run."""
        self.chat_share = chat_share
        self._share = {True: chat_share, False: 1 - chat_share}  # by class: whether it is chat
        self._used = {True: 0.0, False: 0.0}  # device seconds of each class, divided by its share

    @property
    def chat_due_in_s(self) -> float:
        """Seconds that other lanes may still use before a chat lane goes first; 0 when a chat lane goes first now."""
        return max(0.0, self._used[True] - self._used[False]) * self._share[False]

    def next_of(self, working: Collection[Resident], first: Collection[str] = ()) -> Resident:
        """Returns the lane of `working` that steps next. first: models whose lanes go first within their class."""
        chats = [r for r in working if r.is_chat]
        others = [r for r in working if not r.is_chat]
        group = (chats if not self.chat_due_in_s else others) if chats and others else chats or others
        return min(group, key=lambda r: (r.name not in first, not r.mid_forward, r.device_s))

    def used(self, resident: Resident, seconds: float) -> None:
        """Charge the lane and its class for device seconds."""
        resident.device_s += seconds
        share = self._share[resident.is_chat]
        self._used[resident.is_chat] += seconds / share if share else 0.0

    def rejoin(self, resident: Resident, residents: Collection[Resident]) -> None:
        """Set a lane that was idle level with the others, and its class if that was idle: idle time is no credit."""
        working = [r for r in residents if r.running and r is not resident]
        resident.device_s = max(resident.device_s, min((r.device_s for r in working), default=0.0))
        chat = resident.is_chat
        if not any(r.is_chat == chat for r in working):
            floor = self._used[not chat] if any(r.is_chat != chat for r in working) else 0.0
            self._used[chat] = max(self._used[chat], floor)
