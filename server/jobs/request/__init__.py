"""What a request for an image or a video asks for, and what its job runs with: resolved once, then stored as JSON."""
