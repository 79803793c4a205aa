"""OpenAI's API, under /v1: the same keys, quotas, queue and models in the words of OpenAI's clients."""
