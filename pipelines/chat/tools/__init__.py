"""How models are shown tools, and how they write calls of them. Any thread; no torch."""
