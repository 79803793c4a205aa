"""The HTTP front end, the engine behind it and what they keep."""
