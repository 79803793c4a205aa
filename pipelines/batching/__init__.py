"""Step-level batching of stock code: which calls share a forward, and how tasks take turns. Device thread only."""
