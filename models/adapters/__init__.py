"""Weights that are lent to requests of other models: what a folder or file is, and which models it fits. No torch."""
