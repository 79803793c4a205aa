"""The lane of a language model: continuous batching, the KV cache, sampling and stopping. Device thread only."""
