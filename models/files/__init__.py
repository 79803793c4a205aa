"""Reads and checks the files of a checkpoint without torch and without running anything that they contain."""
