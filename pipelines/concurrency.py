"""Limits how much runs at once, chats or tokens: halved when memory runs out, doubled again after steps without that.

Device thread only.
"""

from __future__ import annotations

RECOVERY_STEPS = 100  # after running out of memory, until twice as much may run again


class ConcurrencyLimit:
    def __init__(self, max_running: int) -> None:
        self.max_running = max_running
        self.now = max_running  # so much may run at present
        self._n_succeeded = 0  # steps since memory ran out

    def step_succeeded(self) -> None:
        self._n_succeeded += 1
        if self._n_succeeded % RECOVERY_STEPS == 0:
            self.now = min(self.max_running, 2 * self.now)

    def ran_out_of_memory(self, n_running: int) -> None:
        self._n_succeeded = 0
        if n_running > 1:
            self.now = n_running // 2
