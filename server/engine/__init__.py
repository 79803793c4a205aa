"""The device thread: it takes messages, carries out what the scheduler decides, and reports the outcome as events."""
