"""Drawings made by code, and the captions that describe them: the training data of the built-in models."""
