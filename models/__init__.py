"""What a model is, which ones we have, and how a checkpoint becomes a lane."""
