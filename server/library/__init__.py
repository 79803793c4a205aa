"""The model catalogue, changed while the server runs: entries, downloads, watched folders. Event loop only."""
