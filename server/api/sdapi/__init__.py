"""AUTOMATIC1111's API, under /sdapi/v1, on top of ordinary jobs."""
