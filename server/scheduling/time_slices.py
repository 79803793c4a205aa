"""Whose lane takes the next step. Device thread only; pure.

Chat goes first, up to its share of the device's seconds; within a class the lane that used least. A lane that gave way inside a
forward keeps its place: among its class it goes on before the others start anything.
"""

from __future__ import annotations

from collections.abc import Collection

from server.scheduling.resident import Resident


class TimeSlices:
    def __init__(self, chat_share: float) -> None:
        self.chat_share = chat_share
        self._share = {True: chat_share, False: 1 - chat_share}
        self._used = {True: 0.0, False: 0.0}  # device seconds of chat and of the rest, divided by their share

    @property
    def chat_due_in_s(self) -> float:
        """Seconds of the rest's work until chat may go before it; 0: now."""
        return max(0.0, self._used[True] - self._used[False]) * self._share[False]

    def next_of(self, working: Collection[Resident], closing: Collection[str] = ()) -> Resident:
        """`closing`: lanes that go before the others of their class."""
        chats = [r for r in working if r.is_chat]
        others = [r for r in working if not r.is_chat]
        among = (chats if not self.chat_due_in_s else others) if chats and others else chats or others
        return min(among, key=lambda r: (r.name not in closing, not r.mid_forward, r.device_s))

    def took(self, resident: Resident, seconds: float) -> None:
        resident.device_s += seconds
        share = self._share[resident.is_chat]
        self._used[resident.is_chat] += seconds / share if share else 0.0

    def rejoin(self, resident: Resident, residents: Collection[Resident]) -> None:
        """A lane or class that was idle starts level with the others: idle time is not credit."""
        working = [r for r in residents if r.running and r is not resident]
        resident.device_s = max(resident.device_s, min((r.device_s for r in working), default=0.0))
        mine = resident.is_chat
        if not any(r.is_chat == mine for r in working):
            floor = self._used[not mine] if any(r.is_chat != mine for r in working) else 0.0
            self._used[mine] = max(self._used[mine], floor)
