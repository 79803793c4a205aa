"""Several devices as one engine: placement of jobs, their reassignment, and one merged status. Event loop only."""
