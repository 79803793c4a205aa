"""Runs models step by step on one device. Knows nothing of HTTP, stored jobs or the catalogue."""
