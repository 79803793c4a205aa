"""OpenAI's API, under /v1: the same keys, quotas, queue and models, in the format that OpenAI's clients expect."""
