"""Runs models step by step on one device. Knows nothing of HTTP, jobs on disk or the catalogue."""
