"""Decode steps with static buffers: every chat reads one token, by kernels that read the paged KV cache in place."""
