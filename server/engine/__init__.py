"""The device thread: takes messages, asks the scheduler what to do next, does it, and tells what happened."""
