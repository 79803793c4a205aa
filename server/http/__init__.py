"""What every request passes before a route: HTTP parsing, limits, headers, error bodies, event streams. Event loop only."""
