"""Makes pictures and clips larger by networks of the ESRGAN kind, tile by tile. Device thread only."""
