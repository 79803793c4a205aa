"""From messages to the tokens of a prompt, by a model's own chat template. Any thread; no torch."""
