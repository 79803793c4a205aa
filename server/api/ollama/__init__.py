"""Ollama's API. Two of its addresses are ours too: its bodies of /api/chat and /api/generate are told apart."""
