"""The product without HTTP: jobs, chats, models and metrics, as parts of one `Service`. Event loop only."""
