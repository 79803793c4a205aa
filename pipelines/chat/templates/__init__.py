"""Chat templates: running those of checkpoints, and the forms in which they take messages. Any thread; no torch."""
