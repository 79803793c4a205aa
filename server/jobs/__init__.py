"""The life of a job on the event loop: from the request over its progress and results to webhooks and recovery."""
