"""Changes the model catalogue while the server runs: entries, downloads, watched folders. Event loop only."""
