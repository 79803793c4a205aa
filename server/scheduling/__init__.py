"""Pure decisions of the device thread: which model is loaded or evicted, which job is admitted, which lane steps."""
