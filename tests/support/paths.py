"""Where the checkout is, for tests that read its documents, run its scripts, or start its server."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
