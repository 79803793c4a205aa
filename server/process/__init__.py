"""How the server process starts, is configured, logs, and is restarted."""
