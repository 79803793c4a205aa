"""Drawings made by code and captions that describe them: the training data of the built-in models."""
