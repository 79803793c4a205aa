"""The lane of an embedding model: texts of all requests share forwards, and a forward can be preempted."""
