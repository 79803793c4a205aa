"""The life of a job on the event loop: submission, progress, results, webhooks, recovery after a restart."""
