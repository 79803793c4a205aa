"""Reads what lies below the models folders in child processes, and remembers what was read."""
