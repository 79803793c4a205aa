"""Pictures and clips that requests start from: checked and decoded in a process of its own, kept per API key."""
