"""Step-level batching of stock code: which calls share a forward, and how a job is suspended and resumed. Device thread only."""
