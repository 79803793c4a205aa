"""The lane of a language model: continuous batching, the KV cache, sampling and stop strings. Device thread only."""
