"""Replaces the layers of a model, or has a library load them, as `load.quantization` says."""
