"""The server: HTTP front end, job queue, scheduler, device threads and store."""
