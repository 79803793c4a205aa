"""From the tokens of a reply to its text: characters, thinking and answer, stop strings. Any thread; no torch."""
