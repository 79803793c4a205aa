"""For all tests: Hypothesis without a deadline, because a busy machine is no bug; it still stops after its 100 examples."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("agentname", deadline=None)
settings.load_profile("agentname")
