"""API keys, plans, quotas and usage: who sends a request and what they may do. Event loop only."""
