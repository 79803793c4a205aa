"""Marks the store as one whose messages may hold the thinking before a reply.

The messages of an exchange are JSON, so no table changes, and older messages stay as they are. The revision makes an
older version of the program refuse such a store, whose messages it could not read.
"""

from __future__ import annotations

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
