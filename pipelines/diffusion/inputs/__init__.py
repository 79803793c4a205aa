"""Pictures and clips that requests give to a pipeline: read on threads of their own, brought to size, and passed on."""
