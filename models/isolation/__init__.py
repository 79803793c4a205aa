"""Runs work on strangers' files and texts in processes of its own, with bounded memory and time."""
