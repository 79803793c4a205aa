"""What the dialects of the API share: how they read fields, tools and pictures, and send replies."""
