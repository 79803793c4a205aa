"""Works out what a checkpoint is and what it can do from its configs and tensor names. No torch. Any thread."""
