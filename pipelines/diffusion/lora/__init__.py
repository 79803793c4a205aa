"""LoRAs of one pipeline: reads a file, brings its tensors to the pipeline's layers, wears it. Device thread only."""
