"""What the product does, without HTTP: jobs, chats, models and metrics behind one object. Event loop only."""
