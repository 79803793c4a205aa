"""AUTOMATIC1111's API (`/sdapi/v1`) over our own jobs. Event loop only."""
