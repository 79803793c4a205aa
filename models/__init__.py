"""Lists the models that can be served, and reads, checks, fetches and loads their checkpoints."""
