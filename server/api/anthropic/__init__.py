"""Anthropic's Messages API under /v1/messages: what Claude Code and Anthropic's clients speak."""
