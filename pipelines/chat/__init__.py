"""The lane of a language model, on the device thread; how prompts are made and replies read, on any thread."""
