"""Presents several devices as one engine: placement, moves of waiting jobs, one merged status. Event loop only."""
